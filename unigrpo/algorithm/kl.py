"""The KL divergence from the policy to the reference: estimates from the sampled token, and the exact value."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo import ConfigError

MAX_LOG_RATIO = 20.0
"""Largest log-ratio in nats (a factor of 5e8). Beyond it, ratios and k3 are constant and have no gradient."""


def kl_estimate(difference: Float[Tensor, "*any"], estimator: str) -> Float[Tensor, "*any"]:
    """Estimates KL(policy || reference) from the log-probabilities of one sampled token.

    With ``d = log p_reference - log p_policy`` of the token: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - 1 - d. k1 and k3 are
    unbiased if the token was sampled from the distribution that is scored. But when the sampler chose it, other tokens
    were masked than in an inner update, so none of the three is unbiased there.

    Their gradients differ. If the token was sampled from the policy, the expected gradient is 0 for k1, that of
    KL(policy || reference) for k2, and that of KL(reference || policy) for k3.

    Args:
        difference: d, nats.
        estimator: `k1`, `k2` or `k3`.

    Returns:
        The estimates in nats, exactly 0 where both agree. k3 is never negative. It clamps ``d`` to at most 20, because
        its exponential would overflow; the gradient of such a token is 0.

    Raises:
        ValueError: Unknown estimator.

    Source:
        J. Schulman, "Approximating KL divergence", 2020; k3 in GRPO: arXiv:2402.03300, equation 4.
    """
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        difference = difference.clamp(max=MAX_LOG_RATIO)
        return torch.expm1(difference) - difference
    raise ConfigError(f"KL estimator: no {estimator!r}; choose one of ['k1', 'k2', 'k3']")


def exact_kl(log_probs: Float[Tensor, "*N V"], ref_log_probs: Float[Tensor, "*N V"]) -> Float[Tensor, "*N"]:
    """Returns the exact KL(policy || reference) of whole distributions in nats, with its exact gradient.

    Args:
        log_probs: Log-probabilities of all V tokens under the policy, normalised.
        ref_log_probs: Log-probabilities of all V tokens under the reference, normalised.
    """
    # 0 log 0 counts 0; an infinite log-probability must not turn the gradient into NaN.
    return (log_probs.exp() * (log_probs - ref_log_probs).masked_fill(log_probs == -torch.inf, 0.0)).sum(dim=-1)
