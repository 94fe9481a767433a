"""Reward for right yes-or-no answers by the rule of POPE, a benchmark of object hallucination."""

from __future__ import annotations

from rewards.yes_no import YesNoReward

NEGATIVE = frozenset({"No", "no", "not"})


class Pope(YesNoReward):
    """1 if the answer, read by POPE's rule, equals the gold, else 0.

    An evaluation adds precision, recall, F1 and the fraction of yes.

    Source:
        POPE, arXiv:2305.10355, section 4.1, with the reading of answers of its `evaluate.py`.
    """

    name = "pope"

    def said(self, answer: str) -> str:
        """Returns no, if the first sentence has `No`, `no` or `not`; else yes.

        >>> Pope().said("There is not a dog."), Pope().said("I see a dog. No cat."), Pope().said("No, it isn't.")
        ('no', 'yes', 'no')
        """
        first = answer.partition(".")[0].replace(",", "")
        return "no" if NEGATIVE & set(first.split()) else "yes"
