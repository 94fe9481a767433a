"""Checks of single values, with errors that say what was found and what is allowed."""

from __future__ import annotations

import math

from unigrpo import ConfigError


def require(condition: bool, message: str) -> None:
    """Raises a ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises a ConfigError unless the value of a setting is one of those allowed."""
    require(value in allowed, f"{name}: no {value!r}; choose one of {sorted(allowed)}")


def positive(name: str, value: float) -> None:
    """Raises a ConfigError unless the value of a setting is finite and above 0."""
    require(0 < value < math.inf, f"{name} is {value}; it must be a number above 0")


def valid_seed(name: str, value: int) -> None:
    """Raises a ConfigError for a seed that NumPy's generator does not accept, since libraries seed it, too."""
    require(0 <= value < 2**32, f"{name} is {value}; it must lie in [0, {2**32 - 1}]")


def within(name: str, value: float, low: float, high: float) -> None:
    """Raises a ConfigError unless the value of a setting lies between two bounds, both included."""
    require(low <= value <= high, f"{name} is {value}; it must lie in [{low}, {high}]")
