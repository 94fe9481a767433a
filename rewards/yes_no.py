"""The base class of benchmarks whose gold answers are yes or no."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.reply import final_reply


class YesNoReward(Reward):
    """1 if the answer, read by the benchmark's rule, equals the gold, else 0."""

    range = (0.0, 1.0)
    unit = "1 if correct"

    def said(self, answer: str) -> str:
        """Returns what an answer says by the benchmark's rule; anything but `yes` and `no` is wrong."""
        raise NotImplementedError

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(self.said(final_reply(item.completion)) == yes_or_no_gold(item.label)) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        super().check_prompt(prompt)

    def check_label(self, label: str | None) -> None:
        yes_or_no_gold(label)


def yes_or_no_gold(label: str | None) -> str:
    """Returns the gold in lower case.

    Raises:
        ValueError: It is neither yes nor no.
    """
    gold = (label or "").strip().rstrip(".").lower()
    if gold not in ("yes", "no"):
        raise ValueError(f"expected the gold answer yes or no, found {label!r:.80}")
    return gold
