"""Padded batches from samples without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.records import MaskPlan, SequenceMasks, TrainSample


@dataclass(frozen=True, kw_only=True)
class ScoringBatch:
    """Inputs of a likelihood for B samples and one inner update, padded on the right to a common length L."""

    token_ids: Int[Tensor, "B L"]
    masks: SequenceMasks
    plan: MaskPlan
    image_mask: Bool[Tensor, "B L"]
    """True on tokens whose probabilities are normalized over the image codes alone."""


def pad_rows(rows: Sequence[Tensor], fill: float | int | bool) -> Tensor:
    """Stacks tensors that differ in their last axis, padded on the right with ``fill``."""
    length = max(row.shape[-1] for row in rows)
    shape = (len(rows), *rows[0].shape[:-1], length)
    result = torch.full(shape, fill, dtype=rows[0].dtype)
    for target, row in zip(result, rows, strict=True):
        target[..., : row.shape[-1]] = row
    return result


def scoring_batch(samples: Sequence[TrainSample], inner_update: int, device: torch.device) -> ScoringBatch:
    """Returns the masked views of one inner update.

    Args:
        samples: B samples.
        inner_update: Which of the K mask plans.
        device: Device of the batch.
    """
    rollouts = [sample.rollout for sample in samples]

    def rows(tensors: list[Tensor], fill: float | int | bool) -> Tensor:
        return pad_rows(tensors, fill).to(device)

    return ScoringBatch(
        token_ids=rows([r.token_ids for r in rollouts], 0),
        masks=SequenceMasks(
            token_mask=rows([torch.ones_like(r.response_mask) for r in rollouts], False),
            response_mask=rows([r.response_mask for r in rollouts], False),
            scored_mask=rows([r.scored_mask for r in rollouts], False),
        ),
        plan=MaskPlan(
            is_masked=rows([s.is_masked[inner_update] for s in samples], False).transpose(0, 1),
            weight=rows([s.weight[inner_update] for s in samples], 0.0).transpose(0, 1),
        ),
        image_mask=rows([r.image_mask for r in rollouts], False),
    )


def padded_log_probs(
    samples: Sequence[TrainSample], name: str, inner_update: int, device: torch.device
) -> Float[Tensor, "B L"]:
    """Returns the stored ``old_log_probs`` or ``ref_log_probs`` of one inner update, 0 on padding."""
    return pad_rows([getattr(sample, name)[inner_update] for sample in samples], 0.0).to(device)


def response_masks(samples: Sequence[TrainSample]) -> Bool[Tensor, "B L"]:
    """Returns the response masks, False on padding."""
    return pad_rows([sample.rollout.response_mask for sample in samples], False)
