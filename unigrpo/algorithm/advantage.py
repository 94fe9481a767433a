"""Rewards of a group -> advantages."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

AdvantageEstimator = Literal["group_norm", "mean_only", "leave_one_out"]


def group_advantages(
    rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"], estimator: AdvantageEstimator = "group_norm"
) -> Float[Tensor, " B"]:
    """How much better each rollout is than the others of its group.

    Args:
        rewards: Total reward of each rollout.
        group_ids: Prompt of each rollout; equal for rollouts of one prompt, in any order.
        estimator: `group_norm`: reward minus the group's mean, in units of its population standard deviation;
            `mean_only`: without the division; `leave_one_out`: reward minus the mean of the others.

    Returns:
        Exactly 0 where all rewards of a group are equal; computed in float64, in the type of ``rewards``.

    Raises:
        ValueError: A group has one rollout, whose advantage would always be 0; or an unknown estimator.

    Source:
        GRPO, arXiv:2402.03300, section 4.1.2; without the division, Dr. GRPO, arXiv:2503.20783; leave one out, RLOO,
        arXiv:2402.14740. No epsilon is added to the standard deviation.
    """
    if estimator not in ("group_norm", "mean_only", "leave_one_out"):
        raise ValueError(
            f"advantage estimator: no {estimator!r}; choose one of ['group_norm', 'leave_one_out', 'mean_only']"
        )
    names, group = group_ids.unique(return_inverse=True)
    size = torch.bincount(group)
    if (size < 2).any():
        lonely = names[size < 2].tolist()
        raise ValueError(f"groups {lonely} have one rollout, whose advantage would always be 0; use at least 2")
    group = group.to(rewards.device)
    size = size.to(rewards.device)

    exact = rewards.double()
    first = torch.zeros_like(size, dtype=torch.float64).scatter_reduce(0, group, exact, "amin", include_self=False)
    # Measured from a member of the group, equal rewards are exactly 0 apart: no rounding of the mean can split them.
    shifted = exact - first[group]
    centred = shifted - _group_mean(shifted, group, size)[group]
    if estimator == "leave_one_out":
        centred = centred * (size / (size - 1))[group]
    elif estimator == "group_norm":
        spread = _group_mean(centred.square(), group, size).sqrt()
        centred = centred / spread.masked_fill(spread == 0, 1.0)[group]
    return centred.to(rewards.dtype)


def _group_mean(values: Float[Tensor, " B"], group: Int[Tensor, " B"], size: Int[Tensor, " G"]) -> Float[Tensor, " G"]:
    return torch.zeros_like(size, dtype=values.dtype).index_add(0, group, values) / size
