"""GRPO, GSPO, ESPO: the clipped surrogate of a ratio per token, view, span or sequence."""

from __future__ import annotations

from unigrpo import ConfigError
from unigrpo.algorithm.entries import Columns, Entries, units
from unigrpo.algorithm.objective.base import (
    Objective,
    UnitLosses,
    check_level,
    checked_normalisation,
    old_log_probs,
    unit_advantages,
    weighted_sum,
)
from unigrpo.algorithm.policy_loss import MAX_LOG_RATIO, clipped_surrogate


class Clipped(Objective):
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = exp(weighted sum of new - old log-probabilities).

    Args:
        level: Units of the ratio. `token` combines the views of a token; `view_token` has a ratio for each view.
        normalise: What the log-ratio of a unit is divided by: `none`; `tokens`, the number of tokens that the unit
            stands for; or `weights`, the sum of the estimator's weights. By default `none` for tokens and `tokens`
            for larger units.
        max_importance: Above 0, every unit counts min(max_importance, old over behaviour probability), where the
            response was not written by the old policy itself; 0 leaves this out. Then the old policy is that before
            the first inner update, and not the one that generated the response.

    Source:
        PPO, arXiv:1707.06347, equation 7; separate bounds, DAPO, arXiv:2503.14476, section 3.1. `token`: UniGRPO,
        arXiv:2505.15809, equation 5. `sequence`: GSPO, arXiv:2507.18071 (`normalise` `weights` is the mean over the
        scored tokens), and ESPO, arXiv:2512.03759, with the likelihood `elbo_pair`. ``max_importance``: the decoupled
        objective of AReaL, arXiv:2505.24298, with truncated weights.
    """

    def __init__(self, level: str = "token", normalise: str | None = None, max_importance: float = 0.0) -> None:
        check_level("algo.objective.level", level)
        if max_importance < 0:
            raise ConfigError(f"clipped: max_importance is {max_importance}; use 0 for none, or a number above it")
        self.level = level
        self._normalise = checked_normalisation(normalise, level)
        self._max_importance = max_importance
        if max_importance > 0:
            self.needs = frozenset({"old", "behaviour"})

    def losses(self, entries: Entries, columns: Columns) -> UnitLosses:
        grouped = units(entries, columns, self.level)
        old = old_log_probs(entries)
        log_ratio = weighted_sum(entries.log_probs - old, entries, grouped, self._normalise)
        found = clipped_surrogate(
            log_ratio,
            unit_advantages(entries, columns, grouped),
            columns.clip_low[grouped.sample],
            columns.clip_high[grouped.sample],
        )
        loss = found.loss
        if self._max_importance > 0 and entries.behaviour is not None:
            moved = weighted_sum(old - entries.behaviour, entries, grouped, self._normalise)
            loss = loss * moved.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=self._max_importance)
        log_ratio = log_ratio.detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return UnitLosses(units=grouped, loss=loss, log_ratio=log_ratio, is_clipped=found.is_clipped)
