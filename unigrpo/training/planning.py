"""Rollouts -> training samples: the mask plans of all inner updates, and then what the rewards say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo.algorithm.likelihood.base import LikelihoodEstimator
from unigrpo.algorithm.masking import mask_ratios
from unigrpo.config import MaskRatioConfig
from unigrpo.data.collate import pad_rows
from unigrpo.records import Rollout, SequenceMasks, TrainSample
from unigrpo.rng import keyed_generator


def plan_samples(
    rollouts: Sequence[Rollout],
    estimator: LikelihoodEstimator,
    ratios: MaskRatioConfig,
    *,
    num_inner_updates: int,
    seed: int,
) -> list[TrainSample]:
    """Draws the mask ratios and the mask plans of every inner update. Advantages are 0 until the rewards are known.

    The draws of a sample depend on (seed, step, sample_id, inner update) alone: not on world size, rank or order.

    Args:
        rollouts: B rollouts.
        estimator: Draws the plans.
        ratios: Schedule and bounds of the mask ratios.
        num_inner_updates: K.
        seed: Seed of the run.
    """
    keys = [(seed, r.request.step, r.request.sample_id) for r in rollouts]
    ratio_table = mask_ratios(
        ratios.schedule,
        num_inner_updates,
        [keyed_generator(*key, "mask ratio") for key in keys],
        minimum=ratios.minimum,
        maximum=ratios.maximum,
    )  # (K, B)
    masks = SequenceMasks(
        token_mask=pad_rows([torch.ones_like(r.response_mask) for r in rollouts], False),
        response_mask=pad_rows([r.response_mask for r in rollouts], False),
        scored_mask=pad_rows([r.scored_mask for r in rollouts], False),
    )
    plans = [
        estimator.draw(masks, ratio_table[k], [keyed_generator(*key, k, "mask") for key in keys])
        for k in range(num_inner_updates)
    ]
    return [
        TrainSample(
            rollout=rollout,
            advantage=0.0,
            is_valid=True,
            mask_ratios=ratio_table[:, row],
            is_masked=torch.stack([plan.is_masked[:, row, : len(rollout.token_ids)] for plan in plans]),
            weight=torch.stack([plan.weight[:, row, : len(rollout.token_ids)] for plan in plans]),
        )
        for row, rollout in enumerate(rollouts)
    ]


def with_log_probs(
    samples: Sequence[TrainSample], old: Sequence[Tensor], reference: Sequence[Tensor | None]
) -> list[TrainSample]:
    """The samples with log-probabilities (K, L): of the weights that wrote them, and of the reference, if any."""
    return [
        replace(sample, old_log_probs=o, ref_log_probs=r) for sample, o, r in zip(samples, old, reference, strict=True)
    ]


def with_rewards(
    samples: Sequence[TrainSample], advantages: Float[Tensor, " B"], valid: Bool[Tensor, " B"]
) -> list[TrainSample]:
    """The samples with their advantages; those that may not be trained on lose all their weight."""
    return [
        replace(
            sample,
            advantage=advantage,
            is_valid=bool(keep),
            weight=sample.weight * keep,
            old_log_probs=None if sample.old_log_probs is None else sample.old_log_probs * keep,
            ref_log_probs=None if sample.ref_log_probs is None else sample.ref_log_probs * keep,
        )
        for sample, advantage, keep in zip(samples, advantages.tolist(), valid, strict=True)
    ]
