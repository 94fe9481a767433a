"""REINFORCE and wd1: log-likelihoods weighted by the advantages, without a ratio."""

from __future__ import annotations

from unigrpo.algorithm.entries import Columns, Entries, units
from unigrpo.algorithm.objective.base import (
    Objective,
    UnitLosses,
    check_level,
    checked_normalisation,
    unit_advantages,
    weighted_sum,
)


class Weighted(Objective):
    """-A log p of every unit. Neither old log-probabilities nor clip bounds are used.

    Args:
        level: Units.
        normalise: As in `clipped`.

    Source:
        wd1, arXiv:2507.08838, with the advantage estimator `wd1` and the likelihood `all_masked`.
    """

    needs = frozenset[str]()

    def __init__(self, level: str = "token", normalise: str | None = None) -> None:
        check_level("algo.objective.level", level)
        self.level = level
        self._normalise = checked_normalisation(normalise, level)

    def losses(self, entries: Entries, columns: Columns) -> UnitLosses:
        grouped = units(entries, columns, self.level)
        log_probs = weighted_sum(entries.log_probs, entries, grouped, self._normalise)
        return UnitLosses(units=grouped, loss=-unit_advantages(entries, columns, grouped) * log_probs)
