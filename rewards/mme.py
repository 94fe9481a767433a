"""Reward for right yes-or-no answers by the rule of MME, which asks two questions about each image."""

from __future__ import annotations

from rewards.yes_no import YesNoReward

PREFIX = 4
"""Number of characters at the start of an answer in which the rule looks for yes or no."""


class Mme(YesNoReward):
    """1 if the answer, read by MME's rule, equals the gold, else 0.

    An evaluation adds accuracy+ (both questions of an image answered correctly) and MME's scores.

    Source:
        MME, arXiv:2306.13394, section 2.2, with the reading of answers of its `calculation.py`.
    """

    name = "mme"

    def said(self, answer: str) -> str:
        """Returns `yes` or `no`, whichever is in the first four characters, and `other` without either.

        >>> Mme().said("Yes, it is."), Mme().said("No."), Mme().said("It is no dog"), Mme().said("I say yes")
        ('yes', 'no', 'other', 'other')
        """
        start = answer.lower()[:PREFIX]
        return next((word for word in ("yes", "no") if word in start), "other")
