"""The base class of advantage estimators, which turn the rewards of one group into advantages."""

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
    """Computes how much better each sample is than the others of its group."""

    @abstractmethod
    def within(self, rewards: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        """Returns the advantages of one group of at least two samples whose rewards are not all equal.

        Args:
            rewards: Total rewards minus one of them, so that differences are exact. The result must not change if a
                constant is added to all rewards.
        """


def load_advantage(name: str, options: Mapping[str, Any]) -> AdvantageEstimator:
    """Builds the estimator of the file ``unigrpo/algorithm/advantage/<name>.py``.

    Args:
        name: Name of the file.
        options: Keyword arguments of its class.

    Raises:
        ConfigError: There is no such file, or an option is unknown or wrong; the message lists the right ones.
    """
    return plugins.build(PACKAGE, name, AdvantageEstimator, options, setting="algo.advantage")


def group_advantages(
    rewards: Float[Tensor, " B"],
    group_ids: Int[Tensor, " B"],
    estimator: str | AdvantageEstimator = "group_norm",
    *,
    min_spread: float = 0.0,
) -> Float[Tensor, " B"]:
    """Returns the advantage of each sample over the others of its group.

    Args:
        rewards: Total reward of each sample.
        group_ids: Prompt of each sample; equal for samples of one prompt, in any order.
        estimator: The estimator, or the name of its file.
        min_spread: Largest population standard deviation of the rewards of a group at which all its advantages are 0.
            The rewards of a model can differ by rounding even if the samples are equal, and dividing by such a
            difference would train on noise.

    Returns:
        The advantages in the type of ``rewards``, exactly 0 if all rewards of a group are equal.

    Raises:
        ConfigError: A group has only one sample, whose advantage would always be 0, or the estimator is unknown.
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
    """Returns the rewards minus their mean."""
    return rewards - rewards.mean()


def spread(rewards: Float[Tensor, " G"]) -> Float[Tensor, ""]:
    """Returns the population standard deviation of the rewards."""
    return centred(rewards).square().mean().sqrt()


def _rows_by_group(group_ids: Int[Tensor, " B"]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, group_id in enumerate(group_ids.cpu()):
        rows.setdefault(int(group_id), []).append(row)
    return rows
