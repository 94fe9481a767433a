"""The UniGRPO objective of one micro-batch: clipped surrogate plus KL to the reference, reduced to one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
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
    by_task: Float[Tensor, "3 T"]
    """Sums over scored tokens of each task: their number, KL and clipped ones; float64."""

    def __add__(self, other: ObjectiveSums) -> ObjectiveSums:
        return ObjectiveSums(
            sums=self.sums + other.sums,
            ratio_max=torch.maximum(self.ratio_max, other.ratio_max),
            by_task=self.by_task + other.by_task,
        )

    def metrics(self, tasks: Sequence[str] = ()) -> dict[str, float]:
        """Losses, and means over the scored tokens; a bin of mask ratios or a task without tokens is left out.

        Args:
            tasks: Names of the T tasks, for metrics of each; none are given without names.
        """
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
            **self._task_metrics(tasks),
        }

    def _task_metrics(self, tasks: Sequence[str]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for i, task in enumerate(tasks):
            number, kl, clipped = (float(value) for value in self.by_task[:, i].cpu())
            if number > 0:
                metrics[f"kl/reference_nats/{task}"] = kl / number
                metrics[f"ratio/clipped_fraction/{task}"] = clipped / number
        return metrics


def unigrpo_loss(
    log_probs: Float[Tensor, "B L"],
    old_log_probs: Float[Tensor, "B L"],
    ref_log_probs: Float[Tensor, "B L"] | None,
    advantages: Float[Tensor, " B"],
    scored: Bool[Tensor, "B L"],
    mask_ratio: Float[Tensor, " B"],
    *,
    denominators: Denominators,
    clip_low: float | Float[Tensor, " B"] = 0.2,
    clip_high: float | Float[Tensor, " B"] = 0.2,
    kl_coef: float | Float[Tensor, " B"] = 0.0,
    loss_coef: float | Float[Tensor, " B"] = 1.0,
    task_ids: Int[Tensor, " B"] | None = None,
    num_tasks: int = 1,
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
        clip_low: The ratio is not followed below ``1 - clip_low``; one for all or one for each response, as the next.
        clip_high: The ratio is not followed above ``1 + clip_high``.
        kl_coef: Coefficient beta of the KL.
        loss_coef: Factor of surrogate and KL.
        task_ids: Below ``num_tasks``; only for the metrics. None: all are of one.
        num_tasks: T.
        kl_estimator: `k1`, `k2` or `k3`.
        aggregation: `masked_token_mean`, `token_mean` or `fixed_length`, of surrogate and KL alike.

    Source:
        UniGRPO, arXiv:2505.15809, equation 5. Its ratio of two mean log-probabilities is read as the ratio of
        likelihoods ``exp(log_probs - old_log_probs)`` of each hidden token.
    """
    surrogate = policy_loss(
        log_probs,
        old_log_probs,
        advantages[:, None],
        scored,
        clip_low=_column(clip_low),
        clip_high=_column(clip_high),
    )
    factor = _column(loss_coef)
    policy = loss = reduce_tokens(factor * surrogate.loss, scored, aggregation, denominators)
    kl = torch.zeros_like(surrogate.ratio)
    kl_loss = torch.zeros_like(policy)
    if ref_log_probs is not None:
        kl = kl_divergence(log_probs, ref_log_probs, scored, kl_estimator)
        kl_loss = reduce_tokens(factor * _column(kl_coef) * kl, scored, aggregation, denominators)
        loss = policy + kl_loss

    totals = torch.stack([policy, kl_loss, surrogate.ratio.sum(), kl.sum()]).detach()
    sums = torch.cat(
        [totals.double(), _by_mask_ratio(scored, mask_ratio), _by_mask_ratio(surrogate.is_clipped, mask_ratio)]
    )
    by_row = torch.stack([each.double().sum(dim=1) for each in (scored, kl.detach(), surrogate.is_clipped)])
    by_task = torch.zeros(3, num_tasks, dtype=torch.float64, device=by_row.device)
    ids = torch.zeros_like(advantages, dtype=torch.long) if task_ids is None else task_ids
    return loss, ObjectiveSums(sums=sums, ratio_max=surrogate.ratio.max(), by_task=by_task.index_add(1, ids, by_row))


def _column(value: float | Float[Tensor, " B"]) -> float | Float[Tensor, "B 1"]:
    return value[:, None] if isinstance(value, Tensor) else value


def _by_mask_ratio(is_counted: Bool[Tensor, "B L"], mask_ratio: Float[Tensor, " B"]) -> Float[Tensor, " bins"]:
    """Number of counted tokens by the mask ratio of their response."""
    row_bin = (mask_ratio * NUM_MASK_RATIO_BINS).long().clamp(max=NUM_MASK_RATIO_BINS - 1)
    counts = torch.zeros(NUM_MASK_RATIO_BINS, dtype=torch.float64, device=mask_ratio.device)
    return counts.index_add(0, row_bin, is_counted.sum(dim=1).double())
