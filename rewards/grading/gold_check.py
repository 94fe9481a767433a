"""Golds that no answer can match: missing values, prose, and golds that the grader refuses as their own answer."""

from __future__ import annotations

import re
from collections.abc import Callable

from rewards.grading.grader import prepare

MISSING = re.compile(r"[+-]?(nan|inf|infinity)|null|n/a|\[?not found\]?|undefined", re.IGNORECASE)
"""What programs write where a number or an answer is missing. The infinity of mathematics is ``\\infty``."""
PYTHON_MISSING = "None"
COMMAND = re.compile(r"\\[A-Za-z]+")
WORD = re.compile(r"[A-Za-z]{2,}")
MOST_WORDS = 12
"""Words of a gold that a policy can be expected to say exactly."""


def check_gold(gold: str, kind: str, is_right: Callable[[str, str], bool]) -> None:
    """Refuses a gold that no answer can match.

    Args:
        gold: As the prompt file has it.
        kind: How answers are compared.
        is_right: Grades an answer (first) by the gold (second).

    Raises:
        ValueError: The gold is missing, prose, not of the kind, or not right as its own answer.
    """
    bare = prepare(gold, kind)[1].strip()
    if MISSING.fullmatch(bare) or bare == PYTHON_MISSING:
        raise ValueError(f"expected a gold answer, found {bare!r}, which stands for a missing value")
    num_words = len(WORD.findall(COMMAND.sub(" ", bare)))
    if num_words > MOST_WORDS:
        raise ValueError(
            f"expected a short gold answer, found {num_words} words, which no answer repeats exactly: {bare[:80]!r}"
        )
    if not is_right(gold, gold):
        raise ValueError(
            f"the gold {bare[:80]!r} is graded as wrong where it is the answer itself, so that no answer could be "
            "paid; repair it, or choose another kind"
        )
