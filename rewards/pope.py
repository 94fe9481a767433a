"""Whether a yes-or-no answer is right by the rule of POPE, the benchmark of objects that a model only imagines."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.reply import final_reply

NEGATIVE = frozenset({"No", "no", "not"})


class Pope(Reward):
    """1 if the answer, read by POPE's rule, equals the gold, else 0.

    An evaluation adds precision, recall, F1 and the fraction of yes.

    Source:
        POPE, arXiv:2305.10355, section 4.1, with the reading of answers of its `evaluate.py`.
    """

    name = "pope"
    range = (0.0, 1.0)
    unit = "1 if correct"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(said_yes_or_no(final_reply(i.completion)) == yes_or_no_gold(i.label)) for i in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        super().check_prompt(prompt)

    def check_label(self, label: str | None) -> None:
        yes_or_no_gold(label)


def said_yes_or_no(answer: str) -> str:
    """Returns what an answer says by POPE's rule: no, if its first sentence has `No`, `no` or `not`; else yes.

    >>> said_yes_or_no("There is not a dog."), said_yes_or_no("I see a dog. No cat."), said_yes_or_no("No, it isn't.")
    ('no', 'yes', 'no')
    """
    first = answer.partition(".")[0].replace(",", "")
    return "no" if NEGATIVE & set(first.split()) else "yes"


def yes_or_no_gold(label: str | None) -> str:
    """Returns the gold in lower case.

    Raises:
        ValueError: It is neither yes nor no.
    """
    gold = (label or "").strip().rstrip(".").lower()
    if gold not in ("yes", "no"):
        raise ValueError(f"expected the gold answer yes or no, found {label!r:.80}")
    return gold
