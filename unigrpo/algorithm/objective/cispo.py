"""CISPO: a policy gradient whose importance weight is clipped, so that every unit keeps a gradient."""

from __future__ import annotations

import torch

from unigrpo.algorithm.entries import Columns, Entries, units
from unigrpo.algorithm.kl import MAX_LOG_RATIO
from unigrpo.algorithm.objective.base import (
    Objective,
    UnitLosses,
    check_level,
    checked_normalisation,
    old_log_probs,
    unit_advantages,
    weighted_sum,
)


class Cispo(Objective):
    """-clip(r) A log p, with no gradient through the clipped ratio r.

    Args:
        level: Units of the ratio.
        normalise: As in `clipped`, for both ratio and log-probability.
        two_sided: Whether the ratio is also clipped below at ``1 - clip_low``; the source clips it only from above.

    Source:
        CISPO of MiniMax-M1, arXiv:2506.13585, section 3.1.
    """

    def __init__(self, level: str = "token", normalise: str | None = None, two_sided: bool = False) -> None:
        check_level("algo.objective.level", level)
        self.level = level
        self._normalise = checked_normalisation(normalise, level)
        self._two_sided = two_sided

    def losses(self, entries: Entries, columns: Columns) -> UnitLosses:
        grouped = units(entries, columns, self.level)
        log_probs = weighted_sum(entries.log_probs, entries, grouped, self._normalise)
        log_ratio = weighted_sum(entries.log_probs - old_log_probs(entries), entries, grouped, self._normalise)
        log_ratio = log_ratio.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        ratio = log_ratio.exp()
        held = torch.minimum(ratio, 1 + columns.clip_high[grouped.sample])
        if self._two_sided:
            held = torch.maximum(held, 1 - columns.clip_low[grouped.sample])
        loss = -held * unit_advantages(entries, columns, grouped) * log_probs
        return UnitLosses(units=grouped, loss=loss, log_ratio=log_ratio, is_clipped=held != ratio)
