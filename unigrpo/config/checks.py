"""Checks of single values, with errors that say what was found and what is allowed."""

from __future__ import annotations

import math


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    require(value in allowed, f"{name}: no {value!r}; choose one of {sorted(allowed)}")


def positive(name: str, value: float) -> None:
    require(0 < value < math.inf, f"{name} is {value}; it must be a number above 0")


def within(name: str, value: float, low: float, high: float) -> None:
    require(low <= value <= high, f"{name} is {value}; it must lie in [{low}, {high}]")
