"""Ratio and clip: the surrogate objective of every token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are held within +-20 nats (a factor of 5e8)."""


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """The surrogate of every token, or of every unit; all are 0, or False, where not scored."""

    loss: Float[Tensor, "*any"]
    """Minus the clipped surrogate; carries the gradient."""
    ratio: Float[Tensor, "*any"]
    """New over old probability; no gradient."""
    is_clipped: Bool[Tensor, "*any"]
    """The clip is in force: the token gives no gradient."""


def policy_loss(
    log_probs: Float[Tensor, "B L"],
    old_log_probs: Float[Tensor, "B L"],
    advantages: Float[Tensor, "B _"],
    scored: Bool[Tensor, "B L"],
    *,
    clip_low: float | Float[Tensor, "B _"] = 0.2,
    clip_high: float | Float[Tensor, "B _"] = 0.2,
    max_log_ratio: float = MAX_LOG_RATIO,
) -> PolicyLoss:
    """``-min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)`` with ``r = exp(log_probs - old_log_probs)``.

    Args:
        log_probs: Under the policy, nats; anything where not scored.
        old_log_probs: Under the policy that wrote the response, same masks, nats.
        advantages: Of each response (B, 1) or each token (B, L).
        scored: Tokens that count.
        clip_low: The ratio is not followed below ``1 - clip_low``.
        clip_high: The ratio is not followed above ``1 + clip_high``.
        max_log_ratio: Beyond +- this the ratio stays constant and the token gives no gradient: an overflowing
            exponential would turn the gradient of the whole batch into NaN.

    Source:
        PPO, arXiv:1707.06347, equation 7; separate bounds, DAPO, arXiv:2503.14476, section 3.1.
    """
    log_ratio = (log_probs - old_log_probs).masked_fill(~scored, 0.0)
    result = clipped_surrogate(log_ratio, advantages, clip_low, clip_high, max_log_ratio)
    return PolicyLoss(
        loss=result.loss.masked_fill(~scored, 0.0),
        ratio=result.ratio * scored,
        is_clipped=result.is_clipped & scored,
    )


def clipped_surrogate(
    log_ratio: Float[Tensor, "*any"],
    advantages: Tensor,
    clip_low: float | Tensor,
    clip_high: float | Tensor,
    max_log_ratio: float = MAX_LOG_RATIO,
) -> PolicyLoss:
    """:func:`policy_loss` of log-ratios in any shape, all of which count; the other arguments broadcast to it."""
    ratio = log_ratio.clamp(-max_log_ratio, max_log_ratio).exp()
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
