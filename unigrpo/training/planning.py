"""Rollouts -> training samples."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo.records import Rollout, TrainSample


def train_samples(
    rollouts: Sequence[Rollout],
    advantages: Float[Tensor, " B"],
    valid: Bool[Tensor, " B"],
    old: Sequence[tuple[Tensor, ...] | None],
    reference: Sequence[tuple[Tensor, ...] | None],
) -> list[TrainSample]:
    """All that the inner updates need of each rollout.

    Args:
        rollouts: B rollouts.
        advantages: Of the rollouts.
        valid: Whether a rollout may be trained on.
        old: Log-probabilities under the weights that wrote them, for each inner update; None: not known.
        reference: The same under the reference; None: the rollout is not compared with it.
    """
    return [
        TrainSample(rollout=rollout, advantage=advantage, is_valid=bool(keep), old_log_probs=o, ref_log_probs=r)
        for rollout, advantage, keep, o, r in zip(rollouts, advantages.tolist(), valid, old, reference, strict=True)
    ]
