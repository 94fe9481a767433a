"""Per-token log-likelihoods of finished responses under a mask plan, for policy, old policy and reference alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.likelihood.base import combine_views
from unigrpo.algorithm.masking import apply_mask
from unigrpo.data.collate import ScoringBatch


def log_likelihood(
    forward: Callable[..., Any], batch: ScoringBatch, *, mask_id: int, temperature: float
) -> Float[Tensor, "B L"]:
    """The estimate of every scored token's log-probability.

    All views go through the model in one pass, and the head is applied only to the positions that a view scores.

    Args:
        forward: The model, or the engine that holds it.
        batch: Sequences and their mask plan.
        mask_id: Token that hides.
        temperature: Divides the logits, as in sampling.

    Returns:
        Nats, float32; 0 where not scored.
    """
    plan = batch.plan
    num_views = plan.is_masked.shape[0]
    xt = apply_mask(batch.token_ids, plan.is_masked, mask_id)
    is_read = plan.weight > 0
    targets = batch.token_ids.expand(num_views, -1, -1)[is_read]
    out = forward(
        xt.flatten(0, 1),
        attention_mask=batch.masks.token_mask.repeat(num_views, 1),
        positions=is_read.flatten(0, 1),
        targets=targets,
        temperature=temperature,
    )
    view_log_probs = torch.zeros_like(plan.weight).masked_scatter(is_read, out.log_probs)
    return combine_views(view_log_probs, plan)
