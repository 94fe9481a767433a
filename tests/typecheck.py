"""The checker of types and shapes that `tests/conftest.py` applies to functions and dataclasses, and its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

# Type checkers allow an int for the hint float.
checked: Callable[[Any], Any] = beartype(conf=BeartypeConf(is_pep484_tower=True))


class LimitedChecks(type(jaxtyping.config)):  # type: ignore[misc]
    """Settings of jaxtyping that check only the first calls of each test.

    Checks of every call took a third of the CPU time of a training, whose later steps call the same functions with the
    same shapes as its first.
    """

    left = 10**6
    """Number of calls that are still checked."""

    @property
    def jaxtyping_disable(self) -> bool:
        LimitedChecks.left -= 1
        return LimitedChecks.left < 0
