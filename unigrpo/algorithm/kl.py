"""Estimators k1, k2, k3 of the KL divergence from sampled log-probabilities."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""k3 stops growing where the reference finds a token e^20 times likelier."""


def kl_divergence(
    log_probs: Float[Tensor, "B L"],
    ref_log_probs: Float[Tensor, "B L"],
    scored: Bool[Tensor, "B L"],
    estimator: str = "k3",
) -> Float[Tensor, "B L"]:
    """KL(policy || reference) of every token, estimated from the one token that was drawn.

    With ``d = ref_log_probs - log_probs``: k1 = -d (unbiased, any sign), k2 = d^2 / 2, k3 = exp(d) - 1 - d (unbiased,
    never negative).

    Args:
        log_probs: Under the policy, nats; anything where not scored.
        ref_log_probs: Under the reference, same masks, nats.
        scored: Tokens that count.
        estimator: `k1`, `k2` or `k3`.

    Returns:
        Nats; 0 where not scored, exactly 0 where both agree. k3 holds ``d`` at 20 from above: its exponential would
        overflow, and the gradient of such a token is 0.

    Raises:
        ValueError: Unknown estimator.

    Source:
        J. Schulman, "Approximating KL divergence", 2020; k3 in GRPO: arXiv:2402.03300, equation 4.
    """
    difference = (ref_log_probs - log_probs).masked_fill(~scored, 0.0)
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        difference = difference.clamp(max=MAX_LOG_RATIO)
        return torch.expm1(difference) - difference
    raise ValueError(f"KL estimator: no {estimator!r}; choose one of ['k1', 'k2', 'k3']")
