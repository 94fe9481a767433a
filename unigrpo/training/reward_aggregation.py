"""The rewards of a step as one total and one advantage for each sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.algorithm.advantage.base import AdvantageEstimator, group_advantages
from unigrpo.config import RESPONSE_SPANS, RewardConfig, RewardTermConfig
from unigrpo.records import RewardOutput


class RewardAggregator:
    """Adds the rewards of each sample with their weights."""

    def __init__(self, config: RewardConfig, names: Sequence[str]) -> None:
        """Keeps the weights.

        Args:
            config: The terms.
            names: Names of the rewards, in the order of the terms.
        """
        self._terms = dict(zip(names, config.terms, strict=True))

    def aggregate(
        self, outputs: Sequence[RewardOutput], groups: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
        """Returns the total reward of each sample, and whether the sample may be trained on.

        A reward is added for the samples of its tasks. A reward that is not required and is missing for one sample of
        a group is left out for the whole group, so that its samples are compared by the same sum. A sample with a
        missing required reward is not valid.
        """
        totals = torch.zeros(len(outputs), dtype=torch.float64)
        valid = torch.ones(len(outputs), dtype=torch.bool)
        for term, values, is_missing in self._counted(outputs, groups):
            if term.required:
                valid &= ~is_missing
            totals += term.weight * values
        return totals, valid

    def span_totals(
        self, outputs: Sequence[RewardOutput], groups: Int[Tensor, " B"], tasks: Sequence[str]
    ) -> Float[Tensor, "B S"]:
        """Returns the total reward of each part of each response.

        A reward with a ``span`` is added only for this part, and other rewards for every part.

        Args:
            outputs: The rewards of B samples.
            groups: Prompt of each sample.
            tasks: Task of each sample.

        Returns:
            One column for each part, in the order of generation; 0 where a response has fewer parts. One column for
            the whole response if no reward has a span.
        """
        if not any(term.span for term in self._terms.values()):
            return self.aggregate(outputs, groups)[0][:, None]
        width = max(len(spans) for spans in RESPONSE_SPANS.values())
        totals = torch.zeros(len(outputs), width, dtype=torch.float64)
        for term, values, _ in self._counted(outputs, groups):
            for part in range(width):
                applies = torch.tensor([_applies_to_part(term, task, part) for task in tasks], dtype=torch.bool)
                totals[applies, part] += term.weight * values[applies]
        return totals

    def _counted(
        self, outputs: Sequence[RewardOutput], groups: Int[Tensor, " B"]
    ) -> Iterator[tuple[RewardTermConfig, Float[Tensor, " B"], Bool[Tensor, " B"]]]:
        """Yields each reward that has a weight, with its values and where it is missing. The value is 0 where the
        reward does not count."""
        for name, term in self._terms.items():
            if term.weight == 0:
                continue
            values, is_missing = reward_values(outputs, name)
            if not term.required:
                values[torch.isin(groups, groups[is_missing])] = 0.0
            yield term, values, is_missing


def _applies_to_part(term: RewardTermConfig, task: str, part: int) -> bool:
    """Whether a reward applies to a part of the responses of a task."""
    spans = RESPONSE_SPANS[task]
    return part < len(spans) and term.span in ("", spans[part])


def span_advantages(
    totals: Float[Tensor, "B S"],
    groups: Int[Tensor, " B"],
    valid: Bool[Tensor, " B"],
    estimator: str | AdvantageEstimator,
    *,
    min_spread: float = 0.0,
) -> Float[Tensor, "B S"]:
    """Returns the advantages of each part of each response among the valid samples of its group; 0 for the others, and
    where only one is left."""
    advantages = torch.zeros_like(totals)
    counts = torch.bincount(groups, weights=valid.double())
    kept = valid & (counts[groups] >= 2)
    for part in range(totals.shape[1]) if kept.any() else ():
        own = totals[kept, part]
        advantages[kept, part] = group_advantages(own, groups[kept], estimator, min_spread=min_spread)
    return advantages


def reward_values(outputs: Sequence[RewardOutput], name: str) -> tuple[Float[Tensor, " B"], Bool[Tensor, " B"]]:
    """Returns the values of a reward, 0 where there is none, and where one that was asked for is missing."""
    values = torch.tensor([o.parts.get(name) or 0.0 for o in outputs], dtype=torch.float64)
    return values, torch.tensor([name in o.parts and o.parts[name] is None for o in outputs])
