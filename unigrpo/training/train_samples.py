"""Rollouts and rewards as training samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.records import Rollout, TrainSample


@dataclass(frozen=True, kw_only=True)
class Rewarded:
    """Totals and advantages of the B samples of a step."""

    groups: Int[Tensor, " B"]
    """Prompt of each sample."""
    totals: Float[Tensor, " B"]
    """Weighted sum of all rewards."""
    by_span: Float[Tensor, "B S"]
    """Weighted sum of the rewards that apply to each part of the response; see
    :meth:`~unigrpo.training.reward_aggregation.RewardAggregator.span_totals`."""
    valid: Bool[Tensor, " B"]
    """Whether a sample may be trained on."""
    advantages: Float[Tensor, "B S"]
    """Advantage of each part of the response."""


def train_samples(
    rollouts: Sequence[Rollout],
    rewarded: Rewarded,
    places: Sequence[int],
    old: Mapping[int, tuple[Float[Tensor, " _"], ...] | None],
    reference: Mapping[int, tuple[Float[Tensor, " _"], ...] | None],
    behaviour: Mapping[int, tuple[Float[Tensor, " _"], ...] | None] | None = None,
) -> list[TrainSample]:
    """Returns all that the inner updates need of some rollouts.

    Args:
        rollouts: Rollouts of a step.
        rewarded: Their rewards.
        places: Indices of the rollouts to train on.
        old: For each index, log-probabilities under the old policy, for each inner update; absent or None where they
            are not known.
        reference: The same under the reference; absent where the rollout is not compared with it.
        behaviour: The same under the weights that generated the rollout; absent where these are the old policy.
    """
    behaviour = behaviour or {}
    return [
        TrainSample(
            rollout=rollouts[i],
            advantages=tuple(rewarded.advantages[i].tolist()),
            is_valid=bool(rewarded.valid[i]),
            old_log_probs=old.get(i),
            behaviour_log_probs=behaviour.get(i),
            ref_log_probs=reference.get(i),
        )
        for i in places
    ]
