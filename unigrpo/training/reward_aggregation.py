"""The rewards of a step -> one number for each sample, with an honest account of what is missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.algorithm.advantage.base import group_advantages
from unigrpo.config import RewardConfig
from unigrpo.records import RewardOutput, Rollout

logger = logging.getLogger(__name__)


class RewardError(RuntimeError):
    """Too many samples of a step have no reward; names the reward and a sample."""


class RewardAggregator:
    """Weighted sums of the rewards that are there, and the limit of what may be missing."""

    def __init__(self, config: RewardConfig, names: Sequence[str]) -> None:
        """Args:
        config: Terms and limits.
        names: Names of the rewards, in the order of the terms.
        """
        self._config = config
        self._terms = dict(zip(names, config.terms, strict=True))
        self._failed_steps = 0

    def __call__(
        self, outputs: Sequence[RewardOutput], groups: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """Total reward of each sample, and whether the sample may be trained on.

        A reward counts for the samples of the tasks that it pays for.
        An optional reward that is missing for one sample of a group is left out for the whole group, so that its
        members are compared by the same sum. A sample without a required reward is not usable.
        """
        totals = torch.zeros(len(outputs), dtype=torch.float64)
        valid = torch.ones(len(outputs), dtype=torch.bool)
        for name, term in self._terms.items():
            if term.weight == 0:
                continue
            values, is_missing = _values(outputs, name)
            if term.required:
                valid &= ~is_missing
            else:
                values[torch.isin(groups, groups[is_missing])] = 0.0
            totals += term.weight * values
        return totals, valid

    def check(self, outputs: Sequence[RewardOutput], valid: Bool[Tensor, " B"], rollouts: Sequence[Rollout]) -> bool:
        """Whether enough samples of the step are usable to train on it.

        Raises:
            RewardError: As many steps in a row were not as the config allows.
        """
        share = 1 - valid.float().mean().item()
        if share == 0:
            self._failed_steps = 0
            return True
        message = self._message(outputs, valid, rollouts)
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

    def _message(self, outputs: Sequence[RewardOutput], valid: Bool[Tensor, " B"], rollouts: Sequence[Rollout]) -> str:
        first = int((~valid).nonzero()[0])
        reasons = outputs[first].reasons
        name = next(name for name in reasons if self._terms[name].required and self._terms[name].weight)
        request = rollouts[first].request
        return (
            f"reward {name!r} {reasons[name]}: {int((~valid).sum())} of {len(outputs)} samples have no reward, the "
            f"first is sample {request.sample_id} of prompt {request.prompt.id}; completion: "
            f"{rollouts[first].completion[:200]!r}"
        )


def valid_advantages(
    totals: Float[Tensor, " B"], groups: Int[Tensor, " B"], valid: Bool[Tensor, " B"], estimator: str
) -> Float[Tensor, " B"]:
    """Advantages among the valid samples of each group; 0 for the others, and where only one is left."""
    advantages = torch.zeros_like(totals)
    counts = torch.bincount(groups, weights=valid.double())
    kept = valid & (counts[groups] >= 2)
    if kept.any():
        advantages[kept] = group_advantages(totals[kept], groups[kept], estimator)
    return advantages


def reward_metrics(
    outputs: Sequence[RewardOutput],
    totals: Float[Tensor, " B"],
    groups: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
) -> dict[str, float]:
    """Mean, spread and share of missing values of each reward, and shares of groups that teach nothing."""
    metrics = {f"reward/{k}": v for k, v in _spread("total", totals[valid], groups[valid]).items()}
    for name in _names(outputs):
        paid = torch.tensor([name in o.parts for o in outputs])
        values, is_missing = _values(outputs, name)
        found = paid & ~is_missing
        metrics |= {f"reward/{k}": v for k, v in _spread(name, values[found], groups[found]).items()}
        metrics[f"reward/{name}_missing_share"] = (is_missing.sum() / paid.sum()).item()
    return metrics | {
        "reward/zero_spread_groups": metrics.pop("reward/total_zero_spread_groups", 0.0),
        "reward/left_out_share": 1 - valid.double().mean().item(),
    }


def task_metrics(
    tasks: Sequence[str],
    outputs: Sequence[RewardOutput],
    totals: Float[Tensor, " B"],
    groups: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
) -> dict[str, float]:
    """Of each task: its total reward and each single one, their spread, and groups that teach nothing."""
    metrics: dict[str, float] = {}
    for task in dict.fromkeys(tasks):
        of_task = torch.tensor([other == task for other in tasks])
        rows = valid & of_task
        spreads = _spread("total", totals[rows], groups[rows])
        for name in _names(outputs):
            values, is_missing = _values(outputs, name)
            found = of_task & ~is_missing & torch.tensor([name in o.parts for o in outputs])
            spreads |= _spread(name, values[found], groups[found])
        metrics |= {f"reward/{k}/{task}": v for k, v in spreads.items()}
    return metrics


def reward_means(
    outputs: Sequence[RewardOutput], totals: Float[Tensor, " B"], valid: Bool[Tensor, " B"]
) -> dict[str, float]:
    """Mean of each reward over the samples that have it, and ``reward_total`` of the weighted sums."""
    means: dict[str, float] = {}
    for name in _names(outputs):
        values = [v for v in (o.parts.get(name) for o in outputs) if v is not None]
        means[name] = sum(values) / len(values) if values else float("nan")
    return means | {"reward_total": totals[valid].mean().item()}


def _names(outputs: Sequence[RewardOutput]) -> list[str]:
    return list(dict.fromkeys(name for output in outputs for name in output.parts))


def _values(outputs: Sequence[RewardOutput], name: str) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Values of a reward, 0 where there is none, and where one that was asked for is missing."""
    values = torch.tensor([o.parts.get(name) or 0.0 for o in outputs], dtype=torch.float64)
    return values, torch.tensor([name in o.parts and o.parts[name] is None for o in outputs])


def _spread(name: str, values: Float[Tensor, " N"], groups: Int[Tensor, " N"]) -> dict[str, float]:
    if not len(values):
        return {}
    flat = [float((values[groups == g] == values[groups == g][0]).all()) for g in groups.unique()]
    return {
        f"{name}_mean": values.mean().item(),
        f"{name}_std": values.std(correction=0).item(),
        f"{name}_zero_spread_groups": sum(flat) / len(flat),
    }
