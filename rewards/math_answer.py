"""Reward for a final answer that equals the gold answer: a number, mathematics, a choice, yes or no, or words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.grading.grader import KINDS, Grader, prepare

MOST_WORDS = 12
"""Largest number of words of a gold answer; no policy repeats a longer one exactly."""
_MISSING = re.compile(
    r"[+-]?(nan|inf|infinity)|null|n/a|\[?not ?found\]?|proof|undefined|(?-i:None)|[-\u2013\u2014_?!.…*\s]+",
    re.IGNORECASE,
)
"""Texts that mean a missing answer in data sets. In mathematics, infinity is written ``\\infty``."""


class MathAnswer(Reward):
    """1 if the final answer equals the gold answer, otherwise 0; None if the comparison has no outcome."""

    name = "math_answer"
    range = (0.0, 1.0)
    unit = "1 if correct"

    def __init__(self, kind: str = "auto", deadline: float = 2.0) -> None:
        """Chooses how to compare.

        Args:
            kind: `gsm8k`, `math`, `choice`, `geoqa`, `clevr`, or `auto`, which infers it from the gold answer.
            deadline: CPU seconds for one comparison of two expressions.

        Raises:
            ValueError: There is no such kind.
        """
        if kind not in KINDS:
            raise ValueError(f"math_answer: kind {kind!r} is not one of {list(KINDS)}")
        self._kind = kind
        self._grader = Grader(deadline)
        self._logged: Counter[str] = Counter()

    @property
    def counts(self) -> Counter[str]:
        """Number of grades by status: `ok`, `no_answer`, `timeout`, `error`."""
        return self._grader.counts

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        grades = [self._grader(item.completion, item.label or "", self._kind) for item in inputs]
        return [float(grade.correct) if grade.status in ("ok", "no_answer") else None for grade in grades]

    def load(self) -> None:
        """Starts the process that compares expressions.

        Raises:
            ProcessUnavailable: It does not start, for example because math-verify is not installed.
        """
        self._grader.load()

    def logs(self) -> dict[str, float]:
        """Returns the fractions of the grades since the last call without an answer, with a timeout, and with an
        error."""
        new = self.counts - self._logged
        self._logged = Counter(self.counts)
        return {status: new[status] / new.total() for status in ("no_answer", "timeout", "error")} if new else {}

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        super().check_prompt(prompt)

    def check_label(self, label: str | None) -> None:
        """Raises ValueError for a gold answer that is missing, prose, of another kind, or wrong when graded itself."""
        gold = label or ""
        bare = prepare(gold, self._kind)[1].strip()
        if _MISSING.fullmatch(bare):
            raise ValueError(f"expected a gold answer, found {bare!r}, which stands for a missing value")
        num_words = len(re.findall("[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", " ", bare)))
        if num_words > MOST_WORDS:
            raise ValueError(
                f"expected a short gold answer, found {num_words} words, which no answer repeats exactly: "
                f"{bare[:80]!r}"
            )
        counts = Counter(self._grader.counts)
        is_right = self._grader(gold, gold, self._kind).correct
        self._grader.counts = counts  # a check grades no answer
        if not is_right:
            raise ValueError(
                f"the gold {bare[:80]!r} is graded as wrong when it is the answer itself, so that no answer could be "
                "right; repair it, or choose another kind"
            )

    def close(self) -> None:
        """Ends the process that compares expressions."""
        self._grader.close()
