"""The rewards of a step -> one number for each sample, with an honest account of what is missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.algorithm.advantage import group_advantages
from unigrpo.config import RewardConfig
from unigrpo.records import RewardOutput, Rollout

logger = logging.getLogger(__name__)


class RewardError(RuntimeError):
    """Too many samples of a step have no reward; names the reward and a sample."""


class RewardTotals:
    """Weighted sums of the rewards that are there, and the limit of what may be missing."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._failed_steps = 0

    def __call__(
        self, outputs: Sequence[RewardOutput], groups: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """Total reward of each sample, and whether the sample may be trained on.

        An optional reward that is missing for one sample of a group is left out for the whole group, so that its
        members are compared by the same sum. A sample without a required reward is not usable.
        """
        totals = torch.zeros(len(outputs), dtype=torch.float64)
        usable = torch.ones(len(outputs), dtype=torch.bool)
        for name, term in zip(outputs[0].parts, self._config.terms, strict=True):
            if term.weight == 0:
                continue
            found = torch.tensor([o.parts[name] is not None for o in outputs])
            values = torch.tensor([o.parts[name] or 0.0 for o in outputs], dtype=torch.float64)
            if term.required:
                usable &= found
            else:
                values[torch.isin(groups, groups[~found])] = 0.0
            totals += term.weight * values
        return totals, usable

    def check(self, outputs: Sequence[RewardOutput], usable: Bool[Tensor, " B"], rollouts: Sequence[Rollout]) -> bool:
        """Whether enough samples of the step are usable to train on it.

        Raises:
            RewardError: As many steps in a row were not as the config allows.
        """
        share = 1 - usable.float().mean().item()
        if share == 0:
            self._failed_steps = 0
            return True
        message = _message(outputs, usable, rollouts)
        if share <= self._config.max_missing_share:
            self._failed_steps = 0
            logger.warning("%s; these samples are left out", message)
            return True
        self._failed_steps += 1
        if self._failed_steps >= self._config.max_failed_steps:
            raise RewardError(
                f"{message}. That is more than reward.max_missing_share {self._config.max_missing_share:g}, in "
                f"{self._failed_steps} of at most {self._config.max_failed_steps} steps in a row "
                "(reward.max_failed_steps); they changed no weights"
            )
        logger.warning("%s; this step changes no weights", message)
        return False


def usable_advantages(
    totals: Float[Tensor, " B"], groups: Int[Tensor, " B"], usable: Bool[Tensor, " B"], estimator: str
) -> Float[Tensor, " B"]:
    """Advantages among the usable samples of each group; 0 for the others, and where only one is left."""
    advantages = torch.zeros_like(totals)
    counts = torch.bincount(groups, weights=usable.double())
    kept = usable & (counts[groups] >= 2)
    if kept.any():
        advantages[kept] = group_advantages(totals[kept], groups[kept], estimator)
    return advantages


def reward_metrics(
    outputs: Sequence[RewardOutput],
    totals: Float[Tensor, " B"],
    groups: Int[Tensor, " B"],
    usable: Bool[Tensor, " B"],
) -> dict[str, float]:
    """Mean, spread and share of missing values of each reward, and shares of groups that teach nothing."""
    metrics = {f"reward/{k}": v for k, v in _spread("total", totals[usable], groups[usable]).items()}
    for name in outputs[0].parts:
        found = torch.tensor([o.parts[name] is not None for o in outputs])
        values = torch.tensor([o.parts[name] or 0.0 for o in outputs], dtype=torch.float64)
        metrics |= {f"reward/{k}": v for k, v in _spread(name, values[found], groups[found]).items()}
        metrics[f"reward/{name}_missing_share"] = 1 - found.double().mean().item()
    return metrics | {
        "reward/zero_spread_groups": metrics.pop("reward/total_zero_spread_groups", 0.0),
        "reward/left_out_share": 1 - usable.double().mean().item(),
    }


def reward_means(
    outputs: Sequence[RewardOutput], totals: Float[Tensor, " B"], usable: Bool[Tensor, " B"]
) -> dict[str, float]:
    """Mean of each reward over the samples that have it, and ``reward_total`` of the weighted sums."""
    means: dict[str, float] = {}
    for name in outputs[0].parts:
        values = [o.parts[name] for o in outputs if o.parts[name] is not None]
        means[name] = sum(v for v in values if v is not None) / len(values) if values else float("nan")
    return means | {"reward_total": totals[usable].mean().item()}


def _spread(name: str, values: Float[Tensor, " N"], groups: Int[Tensor, " N"]) -> dict[str, float]:
    if not len(values):
        return {}
    flat = [float((values[groups == g] == values[groups == g][0]).all()) for g in groups.unique()]
    return {
        f"{name}_mean": values.mean().item(),
        f"{name}_std": values.std(correction=0).item(),
        f"{name}_zero_spread_groups": sum(flat) / len(flat),
    }


def _message(outputs: Sequence[RewardOutput], usable: Bool[Tensor, " B"], rollouts: Sequence[Rollout]) -> str:
    first = int((~usable).nonzero()[0])
    name, reason = next(iter(outputs[first].reasons.items()))
    request = rollouts[first].request
    return (
        f"reward {name!r} {reason}: {int((~usable).sum())} of {len(outputs)} samples have no reward, the first is "
        f"sample {request.sample_id} of prompt {request.prompt.id}; completion: {rollouts[first].completion[:200]!r}"
    )
