"""Held-out scores of each prompt, and the difference of two evaluations of the same prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

SCORES_FILE = "scores.jsonl"
"""One line per held-out prompt and evaluation: ``step``, ``prompt_id``, ``task`` and ``scores`` by the name of the
metric, such as ``math_answer_greedy``. A score of sampled responses is their mean."""
LEVEL = 0.95
"""Probability with which an interval contains the expected difference."""
MIN_PAIRS = 4
"""Smallest number of prompts of an interval; with fewer, the quantiles below are inexact."""

Scores = Mapping[tuple[str, str], Mapping[str, float]]
"""Scores by task and prompt id, and then by the name of the metric."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Mean difference of two evaluations over the prompts that both have scored."""

    n: int
    """Number of prompts."""
    mean: float
    low: float
    high: float
    """Ends of the paired interval."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def scores_at(rows: Sequence[Mapping[str, Any]], step: int) -> Scores:
    """Returns the scores of one evaluation."""
    return {(row["task"], row["prompt_id"]): row["scores"] for row in rows if row["step"] == step}


def paired_gain(before: Scores, after: Scores, metric: str, task: str = "") -> Gain | None:
    """Compares two evaluations on the prompts that both have scored.

    The interval is that of the paired t-test: the mean of the differences per prompt, plus and minus the 97.5%
    quantile of Student's distribution times their standard error. The prompts' different difficulty does not widen
    it, as it would widen a comparison of two means.

    Args:
        before: Scores of the first evaluation.
        after: Scores of the second.
        metric: Name of the metric.
        task: Only prompts of this task; empty for all.

    Returns:
        The difference; None for fewer than :data:`MIN_PAIRS` prompts.
    """
    differences = [
        scores[metric] - before[key][metric]
        for key, scores in after.items()
        if (not task or key[0] == task) and metric in scores and metric in before.get(key, {})
    ]
    if len(differences) < MIN_PAIRS:
        return None
    mean = fmean(differences)
    error = stdev(differences, mean) / math.sqrt(len(differences))
    half = student_quantile(0.5 + LEVEL / 2, len(differences) - 1) * error
    return Gain(n=len(differences), mean=mean, low=mean - half, high=mean + half)


def student_quantile(probability: float, degrees: int) -> float:
    """Returns a quantile of Student's t-distribution by its expansion around the normal one.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5. With 3 degrees of freedom or more, the
    97.5% quantile is right to 0.1%.

    Args:
        probability: The probability below the quantile, in (0, 1).
        degrees: Degrees of freedom.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))
