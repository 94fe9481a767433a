"""Ratio and clip: the surrogate objective of every unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are held within +-20 nats (a factor of 5e8)."""


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """The surrogate of every unit."""

    loss: Float[Tensor, "*any"]
    """Minus the clipped surrogate; carries the gradient."""
    ratio: Float[Tensor, "*any"]
    """New over old probability; no gradient."""
    is_clipped: Bool[Tensor, "*any"]
    """The clip is in force: the unit gives no gradient."""


def clipped_surrogate(
    log_ratio: Float[Tensor, "*any"], advantages: Tensor, clip_low: float | Tensor, clip_high: float | Tensor
) -> PolicyLoss:
    """``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`` with ``r = exp(log_ratio)``.

    Args:
        log_ratio: New minus old log-probability, nats. Beyond +-20 the ratio stays constant and gives no gradient: an
            overflowing exponential would turn the gradient of the whole batch into NaN.
        advantages: In any shape that broadcasts, like the bounds.
        clip_low: The ratio is not followed below ``1 - clip_low``.
        clip_high: The ratio is not followed above ``1 + clip_high``.

    Source:
        PPO, arXiv:1707.06347, equation 7; separate bounds, DAPO, arXiv:2503.14476, section 3.1.
    """
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    surrogate = ratio * advantages
    low, high = (
        torch.as_tensor(bound, dtype=ratio.dtype, device=ratio.device) for bound in (1 - clip_low, 1 + clip_high)
    )
    clipped = ratio.clamp(low, high) * advantages
    return PolicyLoss(
        loss=-torch.minimum(surrogate, clipped),
        ratio=ratio.detach(),
        is_clipped=(clipped < surrogate).detach(),
    )
