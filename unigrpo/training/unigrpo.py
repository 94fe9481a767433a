"""The K optimizer steps that UniGRPO makes on one rollout batch, as one rank sees them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.entries import Columns, Counts, Entries, Units, tokens_of, unit_counts, units, unscored_entries
from unigrpo.algorithm.loss_sums import Sums
from unigrpo.algorithm.objective.base import KLPenalty, Objective, load_objective, total_loss
from unigrpo.algorithm.two_pass import coefficients
from unigrpo.config import TASKS, RunConfig
from unigrpo.models.lora import without_lora
from unigrpo.records import TrainSample
from unigrpo.training.batching import NonFiniteLossError
from unigrpo.training.optimizer_step import Engine
from unigrpo.training.passes import PassRow, entry_log_probs, entry_scores, idle_row, packed, rows_of
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.training.views import ViewSampler, num_scored, spans_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The loss of a run."""

    objective: Objective
    kl: KLPenalty
    reduction: str

    @classmethod
    def of_run(cls, config: RunConfig) -> Loss:
        """The loss that the config describes."""
        objective = config.algo.objective
        return cls(
            objective=load_objective(objective.name, objective.arguments),
            kl=KLPenalty(estimator=config.algo.kl.estimator, level=config.algo.kl.level),
            reduction=config.actor.loss_agg_mode,
        )

    @property
    def has_exact_kl(self) -> bool:
        """Whether the KL is that of whole distributions, computed in the passes of the update."""
        return self.kl.estimator == "exact"

    @property
    def levels(self) -> tuple[str, ...]:
        """Levels of the units that are reduced."""
        return tuple(dict.fromkeys((self.objective.level, self.kl.level)))

    def __call__(self, entries: Entries, columns: Columns, counts: Counts) -> tuple[Tensor, Sums]:
        """This shard's share of the loss, and the metrics."""
        return total_loss(self.objective, self.kl, entries, columns, counts, self.reduction)


@dataclass(frozen=True, kw_only=True)
class InnerBatch:
    """What one inner update scores and knows on this rank."""

    samples: Sequence[TrainSample]
    """Those with a reward."""
    entries: Entries
    """Of the samples that have a gradient, not yet scored."""
    columns: Columns
    """Of ``samples``."""
    counts: Counts
    rows: Sequence[PassRow]
    passes: Sequence[Sequence[int]]
    """Rows of each pass; passes that only other ranks need are empty."""
    needs_two_passes: bool
    """Some units have entries in several passes, on this rank or another."""
    has_old: bool
    """Old log-probabilities were computed before; otherwise those of the first pass are taken."""

    def entries_of(self, number: int) -> Tensor:
        """Numbers of the entries that a pass scores, row by row."""
        starts = torch.tensor([0, *(row.num_scored for row in self.rows)]).cumsum(0).tolist()
        ranges = [torch.arange(starts[i], starts[i + 1]) for i in self.passes[number]]
        return torch.cat([torch.zeros(0, dtype=torch.long), *ranges])


def unigrpo_updates(
    engine: Engine,
    config: RunConfig,
    settings: ScoringSettings,
    samples: Sequence[TrainSample],
    num_skipped: int = 0,
) -> dict[str, float]:
    """Makes one optimizer step for each of the K inner updates.

    An update whose loss or gradient is not finite is not made, and a warning says so.

    Args:
        engine: The policy and its optimizer.
        config: The run.
        settings: Vocabularies and temperatures.
        samples: This rank's share of the rollout batch, scored by the old policy and the reference where needed.
        num_skipped: Updates of the steps before that were not made.

    Returns:
        Means over the updates that were made and over all ranks, but of this rank ``ratio/max``, and
        ``ratio/first_update_deviation``: the largest distance of a ratio from 1 before the first of them, where old
        log-probabilities were computed for it; it is 0 unless scoring and training disagree. ``update/skipped`` is
        the number of updates that were not made.

    Raises:
        NonFiniteLossError: More than ``train.max_skipped_updates`` updates of the run were not made.
    """
    engine.model.train()
    loss, sampler = Loss.of_run(config), ViewSampler(config)
    updates: list[dict[str, float]] = []
    skipped = 0
    for k in range(config.train.num_inner_updates):
        rate = engine.learning_rate()
        batch = inner_batch(engine, config, loss, sampler, samples, k)
        sums, deviation, problem = _accumulate(engine, settings, loss, batch, k)
        norm = engine.step()
        if not math.isfinite(norm):
            skipped += 1
            problem = problem or f"the gradient norm of inner update {k} is {norm}; {_first_samples(samples)}"
            _check_skipped(config, f"{problem}; this update was not made", num_skipped + skipped)
            continue
        metrics = sums.unpacked(engine.all_reduce_sum(sums.packed())).metrics()
        metrics |= {"grad_norm": norm, "learning_rate": rate} | _effective_share(metrics)
        updates.append(metrics | ({} if deviation is None else {"ratio/first_update_deviation": deviation}))
    return {**_mean_metrics(updates), "update/skipped": float(skipped)}


def _check_skipped(config: RunConfig, problem: str, num_skipped: int) -> None:
    """Warns of an update that was not made.

    Raises:
        NonFiniteLossError: There are too many of them.
    """
    limit = config.train.max_skipped_updates
    if num_skipped > limit:
        raise NonFiniteLossError(f"{problem}, and train.max_skipped_updates allows {limit} of them")
    logger.warning("%s; it is number %d of the %d that the run allows", problem, num_skipped, limit)


def inner_batch(
    engine: Engine, config: RunConfig, loss: Loss, sampler: ViewSampler, samples: Sequence[TrainSample], k: int
) -> InnerBatch:
    """Draws the views of an inner update and decides how they go through the model.

    Samples without a reward are left out. Samples without an advantage and without a KL count, but are not scored:
    their gradient is 0.
    """
    kept = [sample for sample in samples if sample.is_valid]
    views = [sampler.views(sample.rollout, k) for sample in kept]
    index = unscored_entries(views, [spans_of(sample.rollout) for sample in kept])
    columns = _columns(config, kept, [drawn.num_views for drawn in views], engine.device)
    index = _on(index, engine.device)
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
        entries = replace(entries, behaviour=_behaviour(config, entries, scored, k))
    if loss.has_exact_kl:
        entries = replace(
            entries, has_ref=torch.tensor(has_kl, dtype=torch.bool, device=engine.device)[entries.sample]
        )
    passes = packed(rows, config)
    number = engine.max_over_ranks(len(passes))
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
    config: RunConfig, kept: Sequence[TrainSample], num_views: Sequence[int], device: torch.device
) -> Columns:
    rollouts = [sample.rollout for sample in kept]
    tasks = [rollout.key.task for rollout in rollouts]
    num_spans = max((int(spans_of(rollout).max()) for rollout in rollouts), default=1)

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    def table(rows: list[Tensor]) -> Tensor:
        return torch.stack(rows).float().to(device) if rows else torch.zeros(0, num_spans, device=device)

    clips = [config.clip_bounds(task) for task in tasks]
    spans = [int(spans_of(rollout).max()) for rollout in rollouts]
    return Columns(
        advantage=table([_advantages(sample, num_spans) for sample in kept]),
        group=torch.tensor([r.key.group_id for r in rollouts], dtype=torch.long, device=device),
        task=torch.tensor([TASKS.index(task) for task in tasks], dtype=torch.long, device=device),
        num_tokens=table([num_scored(rollout, num_spans) for rollout in rollouts]),
        # The views of a row are those of its parts, as many for each.
        num_views=table([torch.full((num_spans,), n / max(s, 1)) for n, s in zip(num_views, spans, strict=True)]),
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


def _on(entries: Entries, device: torch.device) -> Entries:
    moved: dict[str, Any] = {
        name: getattr(entries, name).to(device)
        for name in ("log_probs", "weight", "rate", "sample", "view", "position", "span")
    }
    return Entries(**moved)


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
        entries: Of all scored samples.
        scored: These samples, and how many entries each has.
        loss: Of the run.
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


def _behaviour(
    config: RunConfig,
    entries: Entries,
    scored: Sequence[tuple[TrainSample, int]],
    k: int,
) -> Tensor | None:
    """Log-probabilities of the entries under what generated them; None if that was the old policy itself.

    Where the steps of the sampler are scored, they are those that it recorded: of older weights, a cache or guidance.
    Elsewhere they are those of the older weights in the same views.

    Args:
        config: The run.
        entries: Of all scored samples.
        scored: The scored samples, and how many entries each has.
        k: Inner update.
    """
    if replays_the_sampler(config):
        places = entries.position.cpu().split([number for _, number in scored])
        parts = [s.rollout.commit_log_probs[at] for (s, _), at in zip(scored, places, strict=True)]
    else:
        parts = [s.behaviour_log_probs[k] for s, _ in scored if s.behaviour_log_probs is not None]
        if not parts:
            return None
    return torch.cat([torch.zeros(0), *parts]).to(entries.weight.device)


def replays_the_sampler(config: RunConfig) -> bool:
    """Whether the views of all tasks are those that the sampler saw, step by step."""
    used = [config.likelihood(task) for task in TASKS]
    return all(one.name == "trace" and one.options.get("steps_per_view", 1) == 1 for one in used)


def check_behaviour(config: RunConfig, objective: Objective) -> None:
    """Refuses an objective that weighs by the behaviour policy where nothing is known of it.

    Raises:
        ConfigError: Rollouts are fresh, and their sampler's steps are not scored.
    """
    if "behaviour" in objective.needs and config.rollout.max_staleness == 0 and not replays_the_sampler(config):
        raise ConfigError(
            "algo.objective.options.max_importance weighs by what generated the responses, which is known for "
            "rollout.max_staleness 1, or for algo.likelihood.name trace with steps_per_view 1 for all tasks; set one "
            "of them, or max_importance 0"
        )


def _is_cut(batch: InnerBatch, loss: Loss) -> bool:
    """Whether some unit, or some group that an objective looks at as a whole, lies in several passes."""
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


def _accumulate(
    engine: Engine, settings: ScoringSettings, loss: Loss, batch: InnerBatch, k: int
) -> tuple[Sums, float | None, str | None]:
    """Adds up the gradients of one inner update over the passes.

    Returns:
        The metrics, the largest distance of a ratio from 1 if it is known, and what is wrong with the loss, if it is
        not finite: then the gradients are not, either.
    """
    if batch.needs_two_passes:
        return _two_passes(engine, settings, loss, batch, k)
    nothing = torch.zeros(0, dtype=torch.long, device=engine.device)
    _, total = loss(_with_own_old(batch.entries.at(nothing), loss, batch), batch.columns, batch.counts)
    deviation, problem = 0.0, None
    for number in range(len(batch.passes)):
        log_probs, kl = _pass_scores(engine, settings, loss, batch, number)
        own = batch.entries_of(number).to(engine.device)
        if len(own) == 0:
            share = log_probs.sum() * 0.0
        else:
            entries = replace(batch.entries.at(own), log_probs=log_probs, exact_kl=kl)
            entries, columns = _part(batch, number, entries)
            share, sums = loss(_with_own_old(entries, loss, batch), columns, batch.counts)
            total = total + sums
            if batch.has_old and entries.old is not None:
                deviation = max(deviation, _deviation(log_probs, entries.old))
        found = _problem(engine, share, batch, number, k)
        problem = problem or found
        engine.backward(share if found is None else share * math.nan)
    return total, deviation if k == 0 and batch.has_old else None, problem


def _two_passes(
    engine: Engine, settings: ScoringSettings, loss: Loss, batch: InnerBatch, k: int
) -> tuple[Sums, float | None, str | None]:
    """The same where a unit lies in several passes: all are scored without gradient first."""
    device = engine.device
    log_probs = torch.zeros_like(batch.entries.weight)
    exact_kl = torch.zeros_like(log_probs) if loss.has_exact_kl else None
    with torch.no_grad():
        for number in range(len(batch.passes)):
            found, kl = _pass_scores(engine, settings, loss, batch, number)
            own = batch.entries_of(number).to(device)
            if len(own) > 0:
                log_probs[own] = found
                if exact_kl is not None and kl is not None:
                    exact_kl[own] = kl
    entries = _with_own_old(replace(batch.entries, log_probs=log_probs, exact_kl=exact_kl), loss, batch)
    whole = coefficients(lambda one: loss(one, batch.columns, batch.counts), entries)
    problem = _problem(engine, whole.loss, batch, None, k)
    for number in range(len(batch.passes)):
        found, kl = _pass_scores(engine, settings, loss, batch, number)
        own = batch.entries_of(number).to(device)
        share = whole.surrogate(own, found, kl) if len(own) > 0 else found.sum() * 0.0
        engine.backward(share if problem is None else share * math.nan)
    deviation = None
    if k == 0 and batch.has_old and entries.old is not None:
        deviation = _deviation(log_probs, entries.old)
    return whole.sums, deviation, problem


def _with_own_old(entries: Entries, loss: Loss, batch: InnerBatch) -> Entries:
    """The entries with their own log-probabilities as the old ones, where no others are known: the ratios are 1."""
    if "old" in loss.objective.needs and not batch.has_old:
        return replace(entries, old=entries.log_probs.detach())
    return entries


def _pass_scores(
    engine: Engine, settings: ScoringSettings, loss: Loss, batch: InnerBatch, number: int
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of a pass, and the KLs to the model without its adapters where the loss takes them."""
    rows = [batch.rows[i] for i in batch.passes[number]] or [idle_row(settings)]
    if not loss.has_exact_kl:
        return entry_log_probs(engine.forward, rows, settings, engine.device), None
    return entry_scores(engine.forward, rows, settings, engine.device, partial(without_lora, engine.model))


def _part(batch: InnerBatch, number: int, entries: Entries) -> tuple[Entries, Columns]:
    """The entries of a pass with the samples of this pass alone, in its order."""
    rows = [batch.rows[i] for i in batch.passes[number]]
    samples = list(dict.fromkeys(row.sample for row in rows))
    place = torch.zeros(batch.columns.num_samples, dtype=torch.long)
    place[samples] = torch.arange(len(samples))
    device = entries.sample.device
    columns = batch.columns.at(torch.tensor(samples, device=device), max(len(row.token_ids) for row in rows))
    return replace(entries, sample=place.to(device)[entries.sample]), columns


def _deviation(log_probs: Tensor, old: Tensor) -> float:
    """The largest distance of a ratio from 1."""
    if len(old) == 0:
        return 0.0
    return (log_probs.detach() - old).exp().sub(1).abs().max().item()


def _problem(engine: Engine, loss: Tensor, batch: InnerBatch, number: int | None, k: int) -> str | None:
    """What is wrong on every rank if the loss of any rank is not finite; None if all are finite."""
    bad = 0.0 if torch.isfinite(loss) else 1.0
    if engine.all_reduce_sum(torch.tensor([bad], dtype=torch.float64)).item() > 0:
        rows = [] if number is None else [batch.rows[i].sample for i in batch.passes[number]]
        group = [batch.samples[i] for i in dict.fromkeys(rows)] or batch.samples
        where = _first_samples(group) if bad else "on another rank"
        return f"the loss of inner update {k} is {loss.item()}; {where}"
    return None


def _first_samples(group: Sequence[TrainSample]) -> str:
    keys = [sample.rollout.key for sample in group[:3]]
    named = ", ".join(f"{key.prompt_id} (sample {key.sample_id})" for key in keys)
    return f"the batch starts with {named}"


def _effective_share(metrics: dict[str, float]) -> dict[str, float]:
    """Effective sample size of the ratios as a share of their number: 1 if they are all equal."""
    square = metrics.get("ratio/square_mean", 0.0)
    return {"ratio/effective_sample_share": metrics["ratio/mean"] ** 2 / square} if square > 0 else {}


def _mean_metrics(updates: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the updates that have it; ``ratio/max`` is the largest, and ``_last_update`` the last.

    The last update is the furthest from the policy that wrote the rollouts: its clip fraction says whether there are
    too many inner updates, and the mean hides it.
    """
    names = dict.fromkeys(name for update in updates for name in update)
    values = {name: [u[name] for u in updates if name in u] for name in names}
    means = {name: sum(v) / len(v) for name, v in values.items()}
    if "ratio/max" in values:
        means["ratio/max"] = max(values["ratio/max"])
    if not updates:
        return {}
    last = ("ratio/clipped_fraction", "kl/old_nats", "ratio/effective_sample_share")
    return means | {f"{name}_last_update": updates[-1][name] for name in last if name in updates[-1]}
