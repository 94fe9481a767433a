"""The objective of version 0.1 on padded tensors, with which the loss of a ratio per token is compared bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor


def version_0_1(
    log_probs: Tensor,
    old_log_probs: Tensor,
    ref_log_probs: Tensor,
    advantages: Tensor,
    scored: Tensor,
    *,
    length: float,
    clip_low: Tensor,
    clip_high: Tensor,
    kl_coef: Tensor,
    loss_coef: Tensor,
    kl_estimator: str,
    how: str,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a whole batch, and metrics.

    Args:
        log_probs: (B, L), as the next two; the advantages and coefficients are (B,), and ``scored`` is (B, L).
        old_log_probs: Of the old policy.
        ref_log_probs: Of the reference.
        advantages: Of the responses.
        scored: Tokens that count.
        length: Divisor of `fixed_length`.
        clip_low: Of each response, as the next three.
        clip_high: See above.
        kl_coef: See above.
        loss_coef: See above.
        kl_estimator: `k2` or `k3`.
        how: Reduction.
    """

    def reduced(values: Tensor) -> Tensor:
        totals = values.masked_fill(~scored, 0.0).sum(dim=1)
        if how == "masked_token_mean":
            return (totals / scored.sum(dim=1).clamp(min=1)).sum() / len(scored)
        return totals.sum() / (float(scored.sum()) if how == "token_mean" else len(scored) * length)

    ratio = (log_probs - old_log_probs).masked_fill(~scored, 0.0).clamp(-20, 20).exp()
    surrogate, advantage = ratio * advantages[:, None], advantages[:, None]
    clipped = ratio.clamp((1 - clip_low)[:, None], (1 + clip_high)[:, None]) * advantage
    difference = (ref_log_probs - log_probs).masked_fill(~scored, 0.0)
    near = difference.clamp(max=20)
    kl = difference.square() / 2 if kl_estimator == "k2" else torch.expm1(near) - near
    policy = reduced(loss_coef[:, None] * -torch.minimum(surrogate, clipped))
    loss = policy + reduced(loss_coef[:, None] * kl_coef[:, None] * kl)
    number = scored.sum().item()
    return loss, {
        "ratio/mean": (ratio * scored).sum().item() / number,
        "ratio/max": (ratio * scored).max().item(),
        "ratio/clipped_fraction": ((clipped < surrogate) & scored).sum().item() / number,
        "kl/reference_nats": (kl * scored).sum().item() / number,
        "tokens/scored": number,
    }
