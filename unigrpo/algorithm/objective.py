"""The UniGRPO objective of one micro-batch: clipped surrogate plus KL to the reference, reduced to one number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo.algorithm.kl import kl_divergence
from unigrpo.algorithm.policy_loss import policy_loss
from unigrpo.algorithm.reduction import Denominators, reduce_tokens

NUM_MASK_RATIO_BINS = 4
"""Equal parts of [0, 1] by which the clip fraction is reported."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveSums:
    """What a step's metrics are made of: add micro-batches with ``+``, and sum ``sums`` over the ranks."""

    sums: Float[Tensor, " M"]
    """Shares of the losses, sums over scored tokens, and counts; float64."""
    ratio_max: Float[Tensor, ""]
    """Largest ratio: over ranks, the maximum and not the sum."""

    def __add__(self, other: ObjectiveSums) -> ObjectiveSums:
        return ObjectiveSums(sums=self.sums + other.sums, ratio_max=torch.maximum(self.ratio_max, other.ratio_max))

    def metrics(self) -> dict[str, float]:
        """Losses, and means over the scored tokens; a bin of mask ratios without tokens is left out."""
        policy, kl_loss, ratio, kl, *by_bin = [float(value) for value in self.sums.cpu()]
        tokens, clipped = by_bin[:NUM_MASK_RATIO_BINS], by_bin[NUM_MASK_RATIO_BINS:]
        num_tokens = max(sum(tokens), 1.0)
        edges = [i / NUM_MASK_RATIO_BINS for i in range(NUM_MASK_RATIO_BINS + 1)]
        return {
            "loss/total": policy + kl_loss,
            "loss/policy": policy,
            "loss/kl": kl_loss,
            "kl/reference_nats": kl / num_tokens,
            "ratio/mean": ratio / num_tokens,
            "ratio/max": self.ratio_max.item(),
            "ratio/clipped_fraction": sum(clipped) / num_tokens,
            **{
                f"ratio/clipped_fraction_mask_{edges[i]:.2f}_{edges[i + 1]:.2f}": clipped[i] / tokens[i]
                for i in range(NUM_MASK_RATIO_BINS)
                if tokens[i] > 0
            },
            "tokens/scored": sum(tokens),
        }


def unigrpo_loss(
    log_probs: Float[Tensor, "B L"],
    old_log_probs: Float[Tensor, "B L"],
    ref_log_probs: Float[Tensor, "B L"] | None,
    advantages: Float[Tensor, " B"],
    scored: Bool[Tensor, "B L"],
    mask_ratio: Float[Tensor, " B"],
    *,
    denominators: Denominators,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_coef: float = 0.0,
    kl_estimator: str = "k3",
    aggregation: str = "masked_token_mean",
) -> tuple[Float[Tensor, ""], ObjectiveSums]:
    """The micro-batch's share of ``surrogate + kl_coef * KL``, to be minimised, and what its metrics are made of.

    Args:
        log_probs: Of the responses' tokens under the policy, nats; carries the gradient. Anything where not scored.
        old_log_probs: Under the policy that wrote the responses, same masks.
        ref_log_probs: Under the frozen reference, same masks; None runs without KL.
        advantages: Of the responses.
        scored: Tokens that count: :func:`unigrpo.algorithm.likelihood.base.scored_tokens`.
        mask_ratio: That the masks were drawn with; only for the clip fraction by mask ratio.
        denominators: Counts of the whole batch of the optimizer step, over all ranks.
        clip_low: The ratio is not followed below ``1 - clip_low``.
        clip_high: The ratio is not followed above ``1 + clip_high``.
        kl_coef: Coefficient beta of the KL.
        kl_estimator: `k1`, `k2` or `k3`.
        aggregation: `masked_token_mean`, `token_mean` or `fixed_length`, of surrogate and KL alike.

    Source:
        UniGRPO, arXiv:2505.15809, equation 5. Its ratio of two mean log-probabilities is read as the ratio of
        likelihoods ``exp(log_probs - old_log_probs)`` of each hidden token.
    """
    surrogate = policy_loss(
        log_probs, old_log_probs, advantages[:, None], scored, clip_low=clip_low, clip_high=clip_high
    )
    policy = loss = reduce_tokens(surrogate.loss, scored, aggregation, denominators)
    kl = torch.zeros_like(surrogate.ratio)
    kl_loss = torch.zeros_like(policy)
    if ref_log_probs is not None:
        kl = kl_divergence(log_probs, ref_log_probs, scored, kl_estimator)
        kl_loss = kl_coef * reduce_tokens(kl, scored, aggregation, denominators)
        loss = policy + kl_loss

    totals = torch.stack([policy, kl_loss, surrogate.ratio.sum(), kl.sum()]).detach()
    sums = torch.cat(
        [totals.double(), _by_mask_ratio(scored, mask_ratio), _by_mask_ratio(surrogate.is_clipped, mask_ratio)]
    )
    return loss, ObjectiveSums(sums=sums, ratio_max=surrogate.ratio.max())


def _by_mask_ratio(is_counted: Bool[Tensor, "B L"], mask_ratio: Float[Tensor, " B"]) -> Float[Tensor, " bins"]:
    """Number of counted tokens by the mask ratio of their response."""
    row_bin = (mask_ratio * NUM_MASK_RATIO_BINS).long().clamp(max=NUM_MASK_RATIO_BINS - 1)
    counts = torch.zeros(NUM_MASK_RATIO_BINS, dtype=torch.float64, device=mask_ratio.device)
    return counts.index_add(0, row_bin, is_counted.sum(dim=1).double())
