"""What an advantage estimator is: it turns the rewards of one group into advantages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unigrpo import ConfigError, plugins

PACKAGE = "unigrpo.algorithm.advantage"


class AdvantageEstimator(ABC):
    """Says how much better each sample is than the others of its group."""

    @abstractmethod
    def within(self, rewards: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        """Advantages of one group of at least two samples, whose rewards are not all equal.

        Args:
            rewards: Total rewards, measured from one of them: differences of rewards are exact, and the result must
                not depend on a constant that is added to all of them.
        """


def load_advantage(name: str, options: Mapping[str, Any]) -> AdvantageEstimator:
    """Builds the estimator of the file ``unigrpo/algorithm/advantage/<name>.py``.

    Args:
        name: The file.
        options: Keyword arguments of its class.

    Raises:
        ValueError: No such file, or an option that its class does not have or allow; the message lists the right ones.
    """
    return plugins.build(PACKAGE, name, AdvantageEstimator, options, setting="algo.advantage")


def group_advantages(
    rewards: Float[Tensor, " B"],
    group_ids: Int[Tensor, " B"],
    estimator: str | AdvantageEstimator = "group_norm",
    *,
    min_spread: float = 0.0,
) -> Float[Tensor, " B"]:
    """How much better each sample is than the others of its group.

    Args:
        rewards: Total reward of each sample.
        group_ids: Prompt of each sample; equal for samples of one prompt, in any order.
        estimator: The estimator, or the name of its file.
        min_spread: A group whose rewards have a population standard deviation of at most this has the advantage 0:
            learned rewards differ by rounding where the samples are equal, and dividing by such a difference would
            train on noise.

    Returns:
        In the type of ``rewards``; exactly 0 where all rewards of a group are equal.

    Raises:
        ValueError: A group has one sample, whose advantage would always be 0; or an unknown estimator.
    """
    if isinstance(estimator, str):
        estimator = load_advantage(estimator, {})
    advantages = torch.zeros_like(rewards)
    for group_id, rows in _rows_by_group(group_ids).items():
        if len(rows) < 2:
            raise ConfigError(
                f"group {group_id} has one rollout, whose advantage would always be 0; use at least 2 per prompt"
            )
        # Measured from one of them, equal rewards are exactly 0 apart: no rounding of the mean can split them.
        shifted = rewards[rows] - rewards[rows[0]]
        if spread(shifted) > min_spread:
            advantages[rows] = estimator.within(shifted)
    return advantages


def centred(rewards: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
    """Rewards minus their mean."""
    return rewards - rewards.mean()


def spread(rewards: Float[Tensor, " G"]) -> Float[Tensor, ""]:
    """Population standard deviation of the rewards."""
    return centred(rewards).square().mean().sqrt()


def _rows_by_group(group_ids: Int[Tensor, " B"]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, group_id in enumerate(group_ids.cpu()):
        rows.setdefault(int(group_id), []).append(row)
    return rows
