"""Rewards of a group -> advantages."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def group_advantages(
    rewards: Float[Tensor, " B"], group_ids: Int[Tensor, " B"], estimator: str = "group_norm"
) -> Float[Tensor, " B"]:
    """How much better each rollout is than the others of its group.

    Args:
        rewards: Total reward of each rollout.
        group_ids: Prompt of each rollout; equal for rollouts of one prompt, in any order.
        estimator: `group_norm`: reward minus the group's mean, in units of its population standard deviation;
            `mean_only`: without the division; `leave_one_out`: reward minus the mean of the others.

    Returns:
        In the type of ``rewards``; exactly 0 where all rewards of a group are equal.

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
    advantages = torch.zeros_like(rewards)
    for group_id, rows in _rows_by_group(group_ids).items():
        if len(rows) < 2:
            raise ValueError(
                f"group {group_id} has one rollout, whose advantage would always be 0; use at least 2 per prompt"
            )
        advantages[rows] = _advantages_within(rewards[rows], estimator)
    return advantages


def _rows_by_group(group_ids: Int[Tensor, " B"]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, group_id in enumerate(group_ids.cpu()):
        rows.setdefault(int(group_id), []).append(row)
    return rows


def _advantages_within(rewards: Float[Tensor, " G"], estimator: str) -> Float[Tensor, " G"]:
    # Measured from one of them, equal rewards are exactly 0 apart: no rounding of the mean can split them.
    shifted = rewards - rewards[0]
    centred = shifted - shifted.mean()
    if estimator == "leave_one_out":
        return centred * len(rewards) / (len(rewards) - 1)
    if estimator == "mean_only":
        return centred
    spread = centred.square().mean().sqrt()
    return centred / spread if spread > 0 else centred
