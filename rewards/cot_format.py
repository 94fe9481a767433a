"""Whether a response thinks and then answers: ``<think> ... </think> answer``. 1 or 0."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.base import Reward, RewardInput

OPEN, CLOSE = "<think>", "</think>"
MASK = "<|mdm_mask|>"


class CotFormat(Reward):
    """1 for one ``<think>`` pair at the start with thoughts inside and an answer behind it, else 0."""

    name = "cot_format"
    range = (0.0, 1.0)
    unit = "1 if well formed"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(is_well_formed(item.completion)) for item in inputs]

    def check_label(self, label: str | None) -> None:
        """Needs no gold."""

    def close(self) -> None:
        """Nothing to end."""


def is_well_formed(text: str) -> bool:
    """Whether a completion keeps to the format; time linear in its length.

    >>> is_well_formed("<think>3+4=7</think>7"), is_well_formed("<think></think>7")
    (True, False)
    """
    if MASK in text or text.count(OPEN) != 1 or text.count(CLOSE) != 1:
        return False
    before, _, rest = text.partition(OPEN)
    thoughts, closed, answer = rest.partition(CLOSE)
    return bool(closed and not before.strip() and thoughts.strip() and answer.strip())
