"""Sums from which the metrics of an optimizer step are computed; they add up over passes and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from unigrpo.algorithm.entries import Columns, Units

NUM_MASK_RATE_BINS = 4
"""Number of equal intervals of [0, 1] for which the clip fraction is reported."""


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Partial metrics. All passes and ranks have the same names in the same order."""

    totals: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict[str, Tensor])
    """Metrics that are the sum of the parts."""
    means: Mapping[str, Float[Tensor, " 2"]] = field(default_factory=dict[str, Tensor])
    """Sum and number of the values of which a metric is the mean; the metric is 0 if the number is 0."""
    optional_means: Mapping[str, Float[Tensor, " 2"]] = field(default_factory=dict[str, Tensor])
    """The same for metrics that are left out if the number is 0."""
    largest: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict[str, Tensor])
    """Metrics that are the maximum of the parts."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            totals={name: value + other.totals[name] for name, value in self.totals.items()},
            means={name: value + other.means[name] for name, value in self.means.items()},
            optional_means={name: value + other.optional_means[name] for name, value in self.optional_means.items()},
            largest={name: torch.maximum(value, other.largest[name]) for name, value in self.largest.items()},
        )

    def joined(self, other: Sums) -> Sums:
        """Returns the metrics of both, which have no name in common."""
        return Sums(
            totals={**self.totals, **other.totals},
            means={**self.means, **other.means},
            optional_means={**self.optional_means, **other.optional_means},
            largest={**self.largest, **other.largest},
        )

    def packed(self) -> Float[Tensor, " M"]:
        """Returns all sums over the ranks as one float64 tensor."""
        parts = [*self.totals.values(), *self.means.values(), *self.optional_means.values()]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *(part.double().cpu().flatten() for part in parts)])

    def unpacked(self, values: Float[Tensor, " M"]) -> Sums:
        """Returns these metrics with the sums of :meth:`packed` instead of their own."""
        found: list[dict[str, Tensor]] = []
        first = 0
        for group in (self.totals, self.means, self.optional_means):
            one: dict[str, Tensor] = {}
            for name, value in group.items():
                one[name] = values[first : first + value.numel()].view(value.shape)
                first += value.numel()
            found.append(one)
        return Sums(totals=found[0], means=found[1], optional_means=found[2], largest=self.largest)

    def metrics(self) -> dict[str, float]:
        """Returns the metrics, by name."""
        means = {name: float(value[0]) / max(float(value[1]), 1.0) for name, value in self.means.items()}
        optional = {
            name: float(value[0]) / float(value[1]) for name, value in self.optional_means.items() if value[1] > 0
        }
        totals = {name: float(value) for name, value in self.totals.items()}
        return totals | means | optional | {name: float(value) for name, value in self.largest.items()}


def mean_of(values: Shaped[Tensor, " N"]) -> Float[Tensor, " 2"]:
    """Returns the sum and the number of the values, as float64."""
    return torch.stack([values.detach().double().sum(), torch.tensor(float(len(values))).double().to(values.device)])


def by_task(
    name: str, values: Shaped[Tensor, " U"], units: Units, columns: Columns, counted: Bool[Tensor, " U"] | None = None
) -> dict[str, Float[Tensor, " 2"]]:
    """Returns the mean of each task over its units, or over the counted ones, as ``name/task``."""
    task = columns.task[units.sample]
    if counted is not None:
        task = task.masked_fill(~counted, -1)
    return {f"{name}/{one}": mean_of(values[task == number]) for number, one in enumerate(columns.tasks)}


def by_mask_rate(name: str, values: Bool[Tensor, " U"], rate: Float[Tensor, " U"]) -> dict[str, Float[Tensor, " 2"]]:
    """Returns the mean over units whose tokens were masked with similar probabilities, as ``name_mask_LOW_HIGH``."""
    number = (rate * NUM_MASK_RATE_BINS).long().clamp(max=NUM_MASK_RATE_BINS - 1)
    edges = [i / NUM_MASK_RATE_BINS for i in range(NUM_MASK_RATE_BINS + 1)]
    return {
        f"{name}_mask_{edges[i]:.2f}_{edges[i + 1]:.2f}": mean_of(values[number == i])
        for i in range(NUM_MASK_RATE_BINS)
    }
