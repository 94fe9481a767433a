"""One call of a reward, whose every failure becomes missing values with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rewards.base import Reward, RewardInput
from rewards.runtime.errors import describe

LARGEST = 1e38
"""The largest magnitude of a reward. Sums, squares and float32 copies of larger ones may overflow."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a batch by one reward."""

    values: list[float | None]
    """One value for each sample; None is missing."""
    reason: str = ""
    """Reason why values are missing; empty if none is."""
    has_failed: bool = False
    """True if the call failed as a whole, so that another call might not."""
    is_out_of_memory: bool = False
    """True if the process may take no more memory, so that only a fresh one can score again."""
    logs: dict[str, float] = field(default_factory=dict[str, float])
    """The reward's own numbers for the metrics."""


def score(reward: Reward, inputs: Sequence[RewardInput]) -> Scores:
    """Calls a reward. Any error of the reward makes values missing, and never 0.

    A value that is None, NaN, infinite or of a magnitude above 1e38 is missing for its sample. An exception, and
    anything but a list with one number per sample, is missing for the batch.
    """
    try:
        values: Any = reward(inputs)
        if not isinstance(values, list):
            return missing(len(inputs), f"returned {type(values).__name__}; it must return a list of numbers")
        if len(values) != len(inputs):
            return missing(len(inputs), f"returned {len(values)} values for {len(inputs)} samples")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # user code may raise anything, and sys.exit must not end the process
        failed = missing(len(inputs), f"raised {describe(error)}")
        return replace(failed, is_out_of_memory=isinstance(error, MemoryError))
    try:
        numbers = [_number(value) for value in values]
    except Exception as error:  # __float__ of a user's class, too
        return missing(len(inputs), f"returned something that is no number: {describe(error)}")
    finite = [number if number is not None and abs(number) <= LARGEST else None for number in numbers]
    odd = [number for number, known in zip(numbers, finite, strict=True) if known is None]
    return Scores(values=finite, reason=f"returned {odd[0]}" if odd else "", logs=_logs(reward))


def missing(count: int, reason: str) -> Scores:
    """Scores without a value, of a call that failed."""
    return Scores(values=[None] * count, reason=reason, has_failed=True)


def _number(value: Any) -> float | None:
    if isinstance(value, str | bytes):  # float() would read some of them
        raise TypeError(f"{value[:40]!r}")
    return None if value is None else float(value)


def _logs(reward: Reward) -> dict[str, float]:
    try:
        return {str(name): float(value) for name, value in reward.logs().items()}
    except Exception:  # numbers for the metrics are no reason to lose a batch of rewards
        return {}
