"""The objective of version 0.1 on padded tensors. Tests require that a ratio per token gives bit-identical losses."""

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
    """Returns the loss of a whole batch, and metrics.

    Args:
        log_probs: Log-probabilities under the policy, (B, L).
        old_log_probs: Log-probabilities under the old policy, (B, L).
        ref_log_probs: Log-probabilities under the reference, (B, L).
        advantages: Advantages of the responses, (B,).
        scored: Mask of the scored tokens, (B, L).
        length: Divisor of the reduction `fixed_length`.
        clip_low: Lower clip bound of each response, (B,).
        clip_high: Upper clip bound of each response, (B,).
        kl_coef: KL coefficient of each response, (B,).
        loss_coef: Loss weight of each response, (B,).
        kl_estimator: Estimator of the KL, `k2` or `k3`.
        how: Reduction of the losses of tokens.
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
