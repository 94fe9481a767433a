"""Metrics of the rewards and advantages of a step: means, spreads, and fractions of missing values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.records import RewardOutput
from unigrpo.training.reward_aggregation import reward_values


def reward_metrics(
    outputs: Sequence[RewardOutput],
    totals: Float[Tensor, " B"],
    groups: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
) -> dict[str, float]:
    """Returns mean, spread and fraction of missing values of each reward, and the fraction of groups without
    spread."""
    metrics = {f"reward/{k}": v for k, v in _spread("total", totals[valid], groups[valid]).items()}
    for name in _names(outputs):
        is_applied = torch.tensor([name in o.parts for o in outputs])
        values, is_missing = reward_values(outputs, name)
        found = is_applied & ~is_missing
        metrics |= {f"reward/{k}": v for k, v in _spread(name, values[found], groups[found]).items()}
        metrics[f"reward/{name}_missing_fraction"] = (is_missing.sum() / is_applied.sum()).item()
    return metrics | {
        "reward/zero_spread_groups": metrics.pop("reward/total_zero_spread_groups", 0.0),
        "reward/left_out_fraction": 1 - valid.double().mean().item(),
    }


def task_metrics(
    tasks: Sequence[str],
    outputs: Sequence[RewardOutput],
    totals: Float[Tensor, " B"],
    groups: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
) -> dict[str, float]:
    """Returns the metrics of each task: rewards, their spread, and the fraction of groups without spread."""
    metrics: dict[str, float] = {}
    for task in dict.fromkeys(tasks):
        of_task = torch.tensor([other == task for other in tasks])
        rows = valid & of_task
        spreads = _spread("total", totals[rows], groups[rows])
        for name in _names(outputs):
            values, is_missing = reward_values(outputs, name)
            found = of_task & ~is_missing & torch.tensor([name in o.parts for o in outputs])
            spreads |= _spread(name, values[found], groups[found])
        metrics |= {f"reward/{k}/{task}": v for k, v in spreads.items()}
    return metrics


def reward_means(
    outputs: Sequence[RewardOutput], totals: Float[Tensor, " B"], valid: Bool[Tensor, " B"]
) -> dict[str, float]:
    """Returns the mean of each reward over the samples that have it, and ``reward_total`` of the weighted sums."""
    means: dict[str, float] = {}
    for name in _names(outputs):
        values = [v for v in (o.parts.get(name) for o in outputs) if v is not None]
        means[name] = sum(values) / len(values) if values else float("nan")
    return means | {"reward_total": totals[valid].mean().item()}


def advantage_metrics(advantages: Float[Tensor, "B S"]) -> dict[str, float]:
    """Returns mean, standard deviation and bounds of the advantages of B samples with S spans."""
    return {
        "advantage/mean": advantages.mean().item(),
        "advantage/std": advantages.std(correction=0).item(),
        "advantage/max": advantages.max().item(),
        "advantage/min": advantages.min().item(),
    }


def _names(outputs: Sequence[RewardOutput]) -> list[str]:
    return list(dict.fromkeys(name for output in outputs for name in output.parts))


def _spread(name: str, values: Float[Tensor, " N"], groups: Int[Tensor, " N"]) -> dict[str, float]:
    if not len(values):
        return {}
    flat = [float((values[groups == g] == values[groups == g][0]).all()) for g in groups.unique()]
    return {
        f"{name}_mean": values.mean().item(),
        f"{name}_std": values.std(correction=0).item(),
        f"{name}_zero_spread_groups": sum(flat) / len(flat),
    }
