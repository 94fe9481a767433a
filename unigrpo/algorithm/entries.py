"""Scored tokens as flat lists, and the units over which an objective sums and averages them.

Axes: N entries, one for each (sample, view, token) that an estimator scores; U units; B samples; S parts of a
response (spans).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.likelihood.base import Views
from unigrpo.config.algo import LEVELS
from unigrpo.config.model import LossAggregation

REDUCTIONS: tuple[str, ...] = get_args(LossAggregation)


@dataclass(frozen=True, kw_only=True)
class Entries:
    """Scored tokens, sample by sample, then view by view, then by position."""

    log_probs: Float[Tensor, " N"]
    """Log-probabilities under the policy, nats, which carry the gradient; the next three are in the same views."""
    old: Float[Tensor, " N"] | None = None
    """Log-probabilities under the policy before the inner updates."""
    ref: Float[Tensor, " N"] | None = None
    """Log-probabilities under the reference."""
    has_ref: Bool[Tensor, " N"] | None = None
    """False for samples that are not compared with the reference, whose ``ref`` is not valid. None if ``ref`` is valid
    everywhere."""
    behaviour: Float[Tensor, " N"] | None = None
    """Log-probabilities under the distribution from which the response was sampled, if it is not that of the old
    policy because of older weights, a cache, or a restricted vocabulary."""
    exact_kl: Float[Tensor, " N"] | None = None
    """KL(policy || reference) of the whole distribution at the token, nats; carries the gradient."""
    weight: Float[Tensor, " N"]
    """Weight that the estimator gives to the entry; not 0."""
    rate: Float[Tensor, " N"]
    """Probability with which the view masks the token."""
    sample: Int[Tensor, " N"]
    """Index of the sample, from 0 to B - 1."""
    view: Int[Tensor, " N"]
    position: Int[Tensor, " N"]
    """Index of the token in its row."""
    span: Int[Tensor, " N"]
    """Part of the response, from 0."""
    token_advantage: Float[Tensor, " N"] | None = None
    """Advantage of each entry, which replaces the advantage of the sample."""

    def __len__(self) -> int:
        return len(self.weight)

    def at(self, index: Int[Tensor, " n"]) -> Entries:
        """Returns the entries with these indices."""
        return replace(self, **{name: value[index] for name, value in tensors(self).items()})


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Values of B samples that an objective uses."""

    advantage: Float[Tensor, "B S"]
    """Advantage of each part of the response."""
    group: Int[Tensor, " B"]
    """Number of the prompt of each sample."""
    task: Int[Tensor, " B"]
    """Index into ``tasks``."""
    num_tokens: Float[Tensor, "B S"]
    """Number of scored tokens of each part of the response, whether or not a view scores them."""
    num_views: Float[Tensor, "B S"]
    """Number of views of each part of the response."""
    max_tokens: Float[Tensor, " B"]
    """Number of tokens of the longest response that the sampler generates for the task."""
    clip_low: Float[Tensor, " B"]
    """Lower clip bound: the ratio is clipped to at least ``1 - clip_low``."""
    clip_high: Float[Tensor, " B"]
    """Upper clip bound: the ratio is clipped to at most ``1 + clip_high``."""
    kl_coef: Float[Tensor, " B"]
    """Coefficient beta of the KL."""
    loss_coef: Float[Tensor, " B"]
    """Factor of the surrogate and the KL."""
    num_units: Mapping[str, Float[Tensor, "B S"]]
    """Number of units of each sample in this inner update, in all passes, by level; see :func:`unit_counts`."""
    row_length: int
    """Number of tokens of the longest row."""
    tasks: tuple[str, ...] = ()
    """Names of the tasks, for metrics of each."""

    @property
    def num_samples(self) -> int:
        """The number of samples, B."""
        return len(self.group)

    @property
    def num_spans(self) -> int:
        """The largest number of parts of a response, S."""
        return self.advantage.shape[1]

    def at(self, index: Int[Tensor, " b"], row_length: int) -> Columns:
        """Returns the columns of some samples.

        Args:
            index: Indices of the samples.
            row_length: Number of tokens of their longest row.
        """
        rows: dict[str, Any] = {name: value[index] for name, value in tensors(self).items()}
        rows["num_units"] = {level: count[index] for level, count in self.num_units.items()}
        return replace(self, row_length=row_length, **rows)


def tensors(record: Entries | Columns) -> dict[str, Shaped[Tensor, "*_"]]:
    """Returns the fields that are tensors, by name."""
    return {name: value for name, value in vars(record).items() if isinstance(value, Tensor)}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of the whole batch of an optimizer step, over all ranks."""

    num_responses: float
    """Number of responses, including those without a scored token, which contribute 0."""
    num_tokens: Mapping[str, float]
    """Number of tokens that the units stand for, by level, for `token_mean`; see :func:`tokens_of`."""


@dataclass(frozen=True, kw_only=True)
class Units:
    """Groups of entries."""

    level: str
    of: Int[Tensor, " N"]
    """Unit of each entry."""
    rank: Int[Tensor, " N"]
    """Index of each entry within its unit."""
    sample: Int[Tensor, " U"]
    span: Int[Tensor, " U"]
    """Part of the response, from 0; 0 for `sequence`."""
    column: Int[Tensor, " U"]
    """Place of each unit among those of its sample and span, with gaps for `token`, whose place is its position."""
    width: int
    """Bound of the columns: each is smaller than this number."""
    size: Float[Tensor, " U"]
    """Number of tokens that the unit represents: 1 for a token, the number of its entries for a view, and the number
    of scored tokens for a span or a sequence, whether or not a view scores them."""

    def __len__(self) -> int:
        return len(self.sample)


def unscored_entries(views: Sequence[Views], spans: Sequence[Int[Tensor, " _"]]) -> Entries:
    """Returns the entries of samples whose log-probabilities are not known yet and are set to 0.

    Args:
        views: Views of each sample.
        spans: Part of the response of each token of each sample, from 1.
    """
    columns: dict[str, list[Tensor]] = {name: [] for name in ("weight", "rate", "sample", "view", "position", "span")}
    for number, (own, span) in enumerate(zip(views, spans, strict=True)):
        view, position = (own.weight != 0).nonzero(as_tuple=True)
        columns["weight"].append(own.weight[view, position])
        columns["rate"].append(own.rate[view, position])
        columns["sample"].append(torch.full_like(view, number))
        columns["view"].append(view)
        columns["position"].append(position)
        columns["span"].append(span[position] - 1)
    numbers, nothing = torch.zeros(0), torch.zeros(0, dtype=torch.long)
    joined: dict[str, Tensor] = {
        name: torch.cat([numbers if name in ("weight", "rate") else nothing, *parts])
        for name, parts in columns.items()
    }
    return Entries(log_probs=torch.zeros_like(joined["weight"]), **joined)


def units(entries: Entries, columns: Columns, level: str) -> Units:
    """Groups entries.

    Args:
        entries: All entries of their units.
        columns: Columns of their samples.
        level: One of ``LEVELS``.

    Raises:
        ValueError: Unknown level.
    """
    names = {
        "token": ("sample", "span", "position"),
        "view_token": ("sample", "span", "view", "position"),
        "view": ("sample", "span", "view"),
        "span": ("sample", "span"),
        "sequence": ("sample",),
    }.get(level)
    if names is None:
        raise ConfigError(f"objective level: no {level!r}; choose one of {list(LEVELS)}")
    key = torch.zeros_like(entries.sample)
    for name in names:  # one number for each unit, in the order of the names
        values: Tensor = getattr(entries, name)
        key = key * (int(values.max()) + 1 if len(values) else 1) + values
    of, rank, first = _grouped(key)
    sample = entries.sample[first]
    span = torch.zeros_like(sample) if level == "sequence" else entries.span[first]
    if level == "token":
        column, width = entries.position[first], columns.row_length
    else:
        column = _grouped(sample * columns.num_spans + span)[1]
        width = int(column.max()) + 1 if len(column) else 1
    if level in ("token", "view_token"):
        size = torch.ones_like(first)
    elif level == "view":
        size = of.bincount(minlength=len(first))
    elif level == "span":
        size = columns.num_tokens[sample, span]
    else:
        size = columns.num_tokens.sum(dim=1)[sample]
    return Units(
        level=level,
        of=of,
        rank=rank,
        sample=sample,
        span=span,
        column=column,
        width=width,
        size=size.to(columns.num_tokens.dtype),
    )


def _grouped(key: Int[Tensor, " N"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " U"]]:
    """Returns the group of each element by its key, its index in the group, and the first element of each group."""
    order = key.argsort(stable=True)
    is_first = torch.ones_like(order, dtype=torch.bool)
    is_first[1:] = key[order].diff() != 0
    number = is_first.cumsum(0) - 1
    starts = is_first.nonzero().flatten()
    place = torch.arange(len(key), device=key.device) - starts[number]
    of = torch.empty_like(order).scatter(0, order, number)
    return of, torch.empty_like(order).scatter(0, order, place), order[is_first]


def regrouped(inner: Units, outer: Units, columns: Columns) -> Units:
    """Returns the ``outer`` units, which are spans of the same entries, as groups of the ``inner`` units."""
    of, rank, _ = _grouped(inner.sample * columns.num_spans + inner.span)
    return replace(outer, of=of, rank=rank)


def by_unit(values: Float[Tensor, " N"], grouped: Units, fill: float = 0.0) -> Float[Tensor, "U M"]:
    """Returns the entries of each unit as a row, padded with ``fill``."""
    if len(grouped) == 0:
        return values.new_zeros(0, 1)
    most = int(grouped.rank.max()) + 1
    table = values.new_full((len(grouped) * most,), fill)
    return table.scatter(0, grouped.of * most + grouped.rank, values).view(len(grouped), most)


def per_unit(values: Float[Tensor, " N"], grouped: Units) -> Float[Tensor, " U"]:
    """Returns the sum over the entries of each unit, in a fixed order, so that GPUs give bit-equal results."""
    return by_unit(values, grouped).sum(dim=1)


def per_span(values: Float[Tensor, " U"], grouped: Units, columns: Columns) -> Float[Tensor, "B S"]:
    """Returns the sum over the units of each part of each response."""
    shape = (columns.num_samples, columns.num_spans)
    table = values.new_zeros(columns.num_samples * columns.num_spans * grouped.width)
    place = (grouped.sample * columns.num_spans + grouped.span) * grouped.width + grouped.column
    return table.scatter(0, place, values).view(-1, grouped.width).sum(dim=1).view(shape)


def unit_counts(grouped: Units, columns: Columns) -> Float[Tensor, "B S"]:
    """Returns the number of units of each part of each response."""
    return per_span(torch.ones_like(grouped.size), grouped, columns)


def tokens_of(grouped: Units) -> float:
    """Returns the number of tokens that the units represent."""
    return float(grouped.size.sum())


def response_mean(values: Float[Tensor, " U"], grouped: Units, columns: Columns) -> Float[Tensor, " B"]:
    """Returns the mean over the units of each part of a response, and then over its parts; 0 without units.

    The number of units is that of all passes, so that a pass with some of them returns a partial mean.
    """
    count = columns.num_units[grouped.level]
    means = per_span(values, grouped, columns) / count.clamp(min=1)
    return means.sum(dim=1) / (count > 0).sum(dim=1).clamp(min=1)


def reduce_units(
    values: Float[Tensor, " U"], grouped: Units, columns: Columns, how: str, counts: Counts
) -> Float[Tensor, ""]:
    """Returns the partial loss of these units. The partial losses of all passes and ranks add up to the loss.

    Args:
        values: Loss of each unit.
        grouped: The units.
        columns: Columns of their samples.
        how: `masked_token_mean`: mean over the units of each part of a response, then over its parts, then over all
            responses; `token_mean`: mean over all units of the batch, weighted by the tokens that they represent;
            `fixed_length`: sum over the units of a response with the same weights, divided by the length of the
            longest response of its task, then mean over all responses. The last two weight a response by the number of
            its scored tokens, and thus by its mask ratio if a unit is a token.
        counts: Counts of the whole batch.

    Raises:
        ValueError: Unknown reduction.

    Source:
        UniGRPO, arXiv:2505.15809, equations 4 and 5, with its 1/|o| read as one over the number of masked tokens;
        DAPO, arXiv:2503.14476, section 3.3; Dr. GRPO, arXiv:2503.20783.
    """
    if how == "masked_token_mean":
        return response_mean(values, grouped, columns).sum() / max(counts.num_responses, 1)
    totals = per_span(values * grouped.size, grouped, columns).sum(dim=1)
    if how == "token_mean":
        return totals.sum() / max(counts.num_tokens[grouped.level], 1)
    if how == "fixed_length":
        return (totals / (max(counts.num_responses, 1) * columns.max_tokens)).sum()
    raise ConfigError(f"loss reduction: no {how!r}; choose one of {sorted(REDUCTIONS)}")
