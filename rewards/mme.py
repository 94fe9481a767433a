"""Whether a yes-or-no answer is right by the rule of MME, which asks two questions about each image."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.pope import yes_or_no_gold
from rewards.reply import final_reply

PREFIX = 4
"""Number of characters at the start of an answer in which the rule looks for yes or no."""


class Mme(Reward):
    """1 if the answer, read by MME's rule, equals the gold, else 0.

    An evaluation adds accuracy+ (both questions of an image answered correctly) and MME's scores.

    Source:
        MME, arXiv:2306.13394, section 2.2, with the reading of answers of its `calculation.py`.
    """

    name = "mme"
    range = (0.0, 1.0)
    unit = "1 if correct"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(said_at_start(final_reply(item.completion)) == yes_or_no_gold(item.label)) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        super().check_prompt(prompt)

    def check_label(self, label: str | None) -> None:
        yes_or_no_gold(label)


def said_at_start(answer: str) -> str:
    """Returns `yes` or `no`, whichever is in the first four characters of an answer, and `other` without either.

    >>> said_at_start("Yes, it is."), said_at_start("No."), said_at_start("It is no dog"), said_at_start("I say yes")
    ('yes', 'no', 'other', 'other')
    """
    start = answer.lower()[:PREFIX]
    return next((word for word in ("yes", "no") if word in start), "other")
