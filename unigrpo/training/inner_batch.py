"""The batch of one rank in an inner update: its samples, their views, and the passes through the model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.entries import (
    Columns,
    Counts,
    Entries,
    Units,
    tensors,
    tokens_of,
    unit_counts,
    units,
    unscored_entries,
)
from unigrpo.algorithm.objective.base import Objective
from unigrpo.config import TASKS, RunConfig
from unigrpo.records import KeyedTrajectory, TrainSample
from unigrpo.training.behaviour import behaviour_log_probs
from unigrpo.training.loss import Loss
from unigrpo.training.optimizer_step import Engine
from unigrpo.training.passes import PassRow, packed, rows_of
from unigrpo.training.views import ViewSampler, spans_of


@dataclass(frozen=True, kw_only=True)
class InnerBatch:
    """The batch of one inner update on this rank."""

    samples: Sequence[TrainSample]
    """Samples whose reward is not missing."""
    entries: Entries
    """Entries of the samples that have a gradient; their log-probabilities are not known yet."""
    columns: Columns
    """Columns of ``samples``."""
    counts: Counts
    rows: Sequence[PassRow]
    passes: Sequence[Sequence[int]]
    """Rows of each pass; passes that only other ranks need are empty."""
    needs_two_passes: bool
    """Whether some units have entries in several passes, on this rank or another."""
    has_old: bool
    """Whether old log-probabilities were computed before; otherwise those of this update are used."""

    @cached_property
    def _starts(self) -> list[int]:
        """Number of the first entry of each row, and the number of entries."""
        return list(itertools.accumulate((row.num_scored for row in self.rows), initial=0))

    def entries_of(self, number: int) -> Int[Tensor, " n"]:
        """Numbers of the entries that a pass scores, row by row."""
        ranges = [torch.arange(self._starts[i], self._starts[i + 1]) for i in self.passes[number]]
        return torch.cat([torch.zeros(0, dtype=torch.long), *ranges])


def inner_batch(
    engine: Engine, config: RunConfig, loss: Loss, sampler: ViewSampler, samples: Sequence[TrainSample], k: int
) -> InnerBatch:
    """Samples the views of an inner update and decides how they go through the model.

    Samples with a missing reward are left out. Samples with the advantage 0 and without a KL are counted but not
    scored, since their gradient is 0.
    """
    kept = [sample for sample in samples if sample.is_valid]
    views = [sampler.views(sample.rollout, k) for sample in kept]
    spans = [spans_of(sample.rollout) for sample in kept]
    columns = _columns(config, kept, spans, [one.num_views for one in views], engine.device)
    index = unscored_entries(views, spans)
    index = replace(index, **{name: value.to(engine.device) for name, value in tensors(index).items()})
    grouped = {level: units(index, columns, level) for level in loss.levels}
    columns = replace(columns, num_units={level: unit_counts(one, columns) for level, one in grouped.items()})
    local = [float(len(kept)), *(tokens_of(one) for one in grouped.values())]
    total = engine.all_reduce_sum(torch.tensor(local, dtype=torch.float64)).tolist()
    counts = Counts(num_responses=total[0], num_tokens=dict(zip(grouped, total[1:], strict=True)))

    if loss.has_exact_kl:
        has_kl = [config.kl_coef(sample.rollout.key.task) > 0 for sample in kept]
    else:
        has_kl = [sample.ref_log_probs is not None for sample in kept]
    active = _active(kept, has_kl, columns, loss.objective)
    rows = [row for row in rows_of([s.rollout for s in kept], views) if active[row.sample]]
    entries = index.at(torch.tensor(active, device=engine.device)[index.sample].nonzero().flatten())
    numbers = entries.sample.bincount(minlength=len(kept)).tolist()
    scored = [(sample, number) for sample, number, a in zip(kept, numbers, active, strict=True) if a]
    entries, has_old = _with_known(entries, scored, loss, k)
    if "behaviour" in loss.objective.needs:
        entries = replace(entries, behaviour=behaviour_log_probs(config, entries, scored, k))
    if loss.has_exact_kl:
        entries = replace(
            entries, has_ref=torch.tensor(has_kl, dtype=torch.bool, device=engine.device)[entries.sample]
        )
    passes = packed(rows, config)
    number = max(engine.max_over_ranks(len(passes)), 1)  # DeepSpeed makes no step without a gradient
    batch = InnerBatch(
        samples=kept,
        entries=entries,
        columns=columns,
        counts=counts,
        rows=rows,
        passes=[*passes, *([[]] * (number - len(passes)))],
        needs_two_passes=False,
        has_old=has_old,
    )
    return replace(batch, needs_two_passes=engine.max_over_ranks(int(_is_cut(batch, loss))) > 0)


def _columns(
    config: RunConfig,
    kept: Sequence[TrainSample],
    spans: Sequence[Tensor],
    num_views: Sequence[int],
    device: torch.device,
) -> Columns:
    """The columns of some samples.

    Args:
        config: The run.
        kept: The samples.
        spans: Part of the response of each token of each sample, from 1.
        num_views: Views of each sample.
        device: Device of the columns.
    """
    rollouts = [sample.rollout for sample in kept]
    tasks = [rollout.key.task for rollout in rollouts]
    own_spans = [int(span.max()) for span in spans]
    num_spans = max(own_spans, default=1)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    def table(rows: list[Tensor]) -> Tensor:
        return torch.stack(rows).float().to(device) if rows else torch.zeros(0, num_spans, device=device)

    clips = [config.clip_bounds(task) for task in tasks]
    return Columns(
        advantage=table([_advantages(sample, num_spans) for sample in kept]),
        group=torch.tensor([r.key.group_id for r in rollouts], dtype=torch.long, device=device),
        task=torch.tensor([TASKS.index(task) for task in tasks], dtype=torch.long, device=device),
        num_tokens=table([_num_scored(*one, num_spans) for one in zip(rollouts, spans, strict=True)]),
        # The views of a row are those of its parts, as many for each.
        num_views=table([torch.full((num_spans,), n / max(s, 1)) for n, s in zip(num_views, own_spans, strict=True)]),
        max_tokens=column(
            [
                float(config.response_tokens(task, int(rollout.image_mask.sum())))
                for task, rollout in zip(tasks, rollouts, strict=True)
            ]
        ),
        clip_low=column([low for low, _ in clips]),
        clip_high=column([high for _, high in clips]),
        kl_coef=column([config.kl_coef(task) for task in tasks]),
        loss_coef=column([config.loss_coef(task) for task in tasks]),
        num_units={},
        row_length=max((len(rollout.token_ids) for rollout in rollouts), default=1),
        tasks=TASKS,
    )


def _num_scored(rollout: KeyedTrajectory, span: Tensor, num_spans: int) -> Tensor:
    """Scored tokens (S,) of each part of the response."""
    return torch.bincount(span[rollout.scored_mask], minlength=num_spans + 1)[1:]


def _active(kept: Sequence[TrainSample], has_kl: Sequence[bool], columns: Columns, objective: Objective) -> list[bool]:
    """Which samples have a gradient: an advantage, or a KL to the reference."""
    active = [any(sample.advantages) or kl for sample, kl in zip(kept, has_kl, strict=True)]
    return with_their_groups(active, columns.group.tolist(), objective)


def with_their_groups(active: Sequence[bool], groups: Sequence[int], objective: Objective) -> list[bool]:
    """Returns which samples are scored if some have a gradient: these, or their whole groups if the objective compares
    the samples of a group.

    Args:
        active: Whether a sample has a gradient of its own.
        groups: Prompt of each sample.
        objective: The objective of the run.
    """
    if objective.scope == "unit":
        return list(active)
    needed = {group for group, one in zip(groups, active, strict=True) if one}
    return [group in needed for group in groups]


def _advantages(sample: TrainSample, num_spans: int) -> Tensor:
    """Returns the advantage (S,) of each part of the response."""
    own = torch.tensor(sample.advantages, dtype=torch.float32)
    return own.expand(num_spans) if len(own) == 1 else own[:num_spans]


def _with_known(
    entries: Entries, scored: Sequence[tuple[TrainSample, int]], loss: Loss, k: int
) -> tuple[Entries, bool]:
    """The entries with old and reference log-probabilities, and whether the old ones are known.

    Args:
        entries: Entries of all scored samples.
        scored: These samples, and how many entries each has.
        loss: Loss of the run.
        k: Inner update.
    """
    device, nothing = entries.weight.device, torch.zeros(0)
    old = ref = None
    if "old" in loss.objective.needs:
        known = [s.old_log_probs[k] for s, _ in scored if s.old_log_probs is not None]
        old = torch.cat([nothing, *known]).to(device)
        if len(old) != len(entries):
            if len(old) > 0:
                raise ConfigError(
                    f"{len(old)} old log-probabilities for {len(entries)} scored tokens of inner update {k}; they "
                    "must be those of the same views"
                )
            old = None
    has_ref = None
    if any(s.ref_log_probs is not None for s, _ in scored):
        parts = [torch.zeros(n) if s.ref_log_probs is None else s.ref_log_probs[k] for s, n in scored]
        ref = torch.cat([nothing, *parts]).to(device)
        known = [torch.full((n,), s.ref_log_probs is not None) for s, n in scored]
        has_ref = torch.cat([nothing.bool(), *known]).to(device)
    return replace(entries, old=old, ref=ref, has_ref=has_ref), old is not None


def _is_cut(batch: InnerBatch, loss: Loss) -> bool:
    """Whether some unit, or some group that an objective needs as a whole, is in several passes."""
    if loss.objective.scope == "group":
        return sum(len(one) > 0 for one in batch.passes) > 1
    place = torch.empty(len(batch.entries), dtype=torch.long)
    for number in range(len(batch.passes)):
        place[batch.entries_of(number)] = number
    place = place.to(batch.entries.weight.device)
    return any(_differs(place, units(batch.entries, batch.columns, level)) for level in loss.levels)


def _differs(place: Tensor, grouped: Units) -> bool:
    """Whether the entries of some unit have different places."""
    first = torch.zeros(len(grouped), dtype=torch.long, device=place.device)
    first = first.scatter(0, grouped.of, place)
    return bool((first[grouped.of] != place).any())
