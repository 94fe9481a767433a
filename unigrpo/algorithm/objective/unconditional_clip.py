"""StableDRL: importance weights that are always clipped, and normalised within their group."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.entries import Columns, Entries, Units, response_mean, units
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


class UnconditionalClip(Objective):
    """-c / C A log p of every unit, with c = clip(r, 1 - clip_low, 1 + clip_high) and C the mean of c in the group.

    c and C have no gradient. The surrogate of PPO does not clip a ratio if clipping would raise the objective, so that
    noise in an estimated ratio can make a gradient arbitrarily large. Here the ratio is clipped for both signs of the
    advantage, and the update is a weighted mean of the gradients of the group.

    Args:
        level: Units of the ratio.
        normalise: As in `clipped`, for both ratio and log-probability.

    Source:
        StableDRL, arXiv:2603.06743. Its released code clips the weights only from above and normalises them over the
        samples of a device; its log p are the bounds of SPG.
    """

    scope = "group"

    def __init__(self, level: str = "sequence", normalise: str | None = None) -> None:
        check_level("algo.objective.level", level)
        self.level = level
        self._normalise = checked_normalisation(normalise, level)

    def losses(self, entries: Entries, columns: Columns) -> UnitLosses:
        grouped = units(entries, columns, self.level)
        log_probs = weighted_sum(entries.log_probs, entries, grouped, self._normalise)
        log_ratio = weighted_sum(entries.log_probs - old_log_probs(entries), entries, grouped, self._normalise)
        log_ratio = log_ratio.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        ratio = log_ratio.exp()
        low, high = 1 - columns.clip_low[grouped.sample], 1 + columns.clip_high[grouped.sample]
        held = torch.minimum(torch.maximum(ratio, low), high)
        weight = held / _group_mean(held, grouped, columns)[grouped.sample]
        loss = -weight * unit_advantages(entries, columns, grouped) * log_probs
        return UnitLosses(units=grouped, loss=loss, log_ratio=log_ratio, is_clipped=held != ratio)


def _group_mean(values: Float[Tensor, " U"], grouped: Units, columns: Columns) -> Float[Tensor, " B"]:
    """Returns, for each sample, the mean over the responses of its group with units of the mean over their units."""
    means = response_mean(values, grouped, columns)
    has_units = (columns.num_units[grouped.level] > 0).any(dim=1)
    same = (columns.group[:, None] == columns.group) & has_units
    return (same * means).sum(dim=1) / same.sum(dim=1).clamp(min=1)
