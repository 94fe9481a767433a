"""GRPO, GSPO and ESPO: the clipped surrogate of a ratio per token, view, span or sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo import ConfigError
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


class Clipped(Objective):
    """-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = exp(weighted sum of new - old log-probabilities).

    Args:
        level: Units of the ratio. `token` combines the views of a token; `view_token` has a ratio for each view.
        normalise: Divisor of the log-ratio of a unit: `none`; `tokens`, the number of tokens that the unit represents;
            or `weights`, the sum of the estimator's weights. The default is `none` for tokens and `tokens` for larger
            units.
        max_importance: If above 0, the weight of a unit is min(max_importance, old probability / probability under the
            distribution from which it was sampled), and the old policy is that before the first inner update. If 0, no
            unit is weighted, and with ``rollout.max_staleness 1`` the old policy is that which generated the response.

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


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """The clipped surrogate of some log-ratios."""

    loss: Float[Tensor, "*any"]
    """Minus the clipped surrogate, with a gradient."""
    ratio: Float[Tensor, "*any"]
    """New over old probability, without a gradient."""
    is_clipped: Bool[Tensor, "*any"]
    """Whether the unit is clipped, so that it has no gradient."""


def clipped_surrogate(
    log_ratio: Float[Tensor, "*any"],
    advantages: Float[Tensor, "*_"],
    clip_low: float | Float[Tensor, "*_"],
    clip_high: float | Float[Tensor, "*_"],
) -> Surrogate:
    """Returns ``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`` with ``r = exp(log_ratio)``.

    Args:
        log_ratio: New minus old log-probability, nats. Beyond +-20 the ratio is constant and has no gradient, because
            an overflow of the exponential would make the gradient of the whole batch NaN.
        advantages: Advantages A, in any shape that broadcasts, like the bounds.
        clip_low: The ratio is clipped to at least ``1 - clip_low``.
        clip_high: The ratio is clipped to at most ``1 + clip_high``.

    Source:
        PPO, arXiv:1707.06347, equation 7; separate bounds, DAPO, arXiv:2503.14476, section 3.1.
    """
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    surrogate = ratio * advantages
    low, high = (
        torch.as_tensor(bound, dtype=ratio.dtype, device=ratio.device) for bound in (1 - clip_low, 1 + clip_high)
    )
    clipped = ratio.clamp(low, high) * advantages
    return Surrogate(
        loss=-torch.minimum(surrogate, clipped),
        ratio=ratio.detach(),
        is_clipped=(clipped < surrogate).detach(),
    )
