"""Whether the final answer is the gold number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from rewards.base import RewardInput

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


class MathAnswer:
    """1 if the answer behind the thoughts equals the gold, else 0."""

    name = "math_answer"
    range = (0.0, 1.0)
    unit = "1 if correct"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(is_correct(item.completion, item.label or "")) for item in inputs]

    def check_label(self, label: str | None) -> None:
        """The gold must be a number."""
        if label is None or number(label) is None:
            raise ValueError(f"expected a number, found {label!r}")

    def close(self) -> None:
        """Nothing to end."""


def is_correct(completion: str, gold: str) -> bool:
    """Whether the completion's answer is the gold's number."""
    if "<think>" in completion and "</think>" not in completion:
        return False
    answer = number(completion.rpartition("</think>")[2])
    return answer is not None and answer == number(gold)


def number(text: str) -> Fraction | None:
    """The number that the text is, if it is one."""
    text = text.strip().rpartition("####")[2].strip()[:64]
    if not NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None
