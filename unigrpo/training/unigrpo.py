"""The K optimizer steps that UniGRPO makes on one rollout batch, as one rank sees them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unigrpo.algorithm.entries import Columns, Entries
from unigrpo.algorithm.loss_sums import Sums
from unigrpo.algorithm.two_pass import coefficients
from unigrpo.config import RunConfig
from unigrpo.models.lora import without_lora
from unigrpo.records import TrainSample
from unigrpo.training.inner_batch import InnerBatch, inner_batch
from unigrpo.training.loss import Loss
from unigrpo.training.optimizer_step import Engine, NonFiniteLossError
from unigrpo.training.passes import entry_log_probs, entry_scores, idle_row
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.training.views import ViewSampler

logger = logging.getLogger(__name__)


def unigrpo_updates(
    engine: Engine,
    config: RunConfig,
    settings: ScoringSettings,
    samples: Sequence[TrainSample],
    num_skipped: int = 0,
) -> dict[str, float]:
    """Makes one optimizer step for each of the K inner updates.

    An update whose loss or gradient is not finite is skipped with a warning.

    Args:
        engine: The policy and its optimizer.
        config: The run.
        settings: Vocabularies and temperatures.
        samples: This rank's part of the rollout batch, scored by the old policy and the reference where needed.
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
        metrics |= {"grad_norm": norm, "learning_rate": rate} | _effective_fraction(metrics)
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
            partial_loss = log_probs.sum() * 0.0
        else:
            entries = replace(batch.entries.at(own), log_probs=log_probs, exact_kl=kl)
            entries, columns = _part(batch, number, entries)
            partial_loss, sums = loss(_with_own_old(entries, loss, batch), columns, batch.counts)
            total = total + sums
            if batch.has_old and entries.old is not None:
                deviation = max(deviation, _deviation(log_probs, entries.old))
        found = _problem(engine, partial_loss, batch, number, k)
        problem = problem or found
        engine.backward(partial_loss if found is None else partial_loss * math.nan)
    return total, deviation if k == 0 and batch.has_old else None, problem


def _two_passes(
    engine: Engine, settings: ScoringSettings, loss: Loss, batch: InnerBatch, k: int
) -> tuple[Sums, float | None, str | None]:
    """Does the same if a unit is in several passes: all entries are first scored without gradient."""
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
        partial_loss = whole.surrogate(own, found, kl) if len(own) > 0 else found.sum() * 0.0
        engine.backward(partial_loss if problem is None else partial_loss * math.nan)
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
    """Returns the largest distance of a ratio from 1."""
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


def _effective_fraction(metrics: dict[str, float]) -> dict[str, float]:
    """Effective sample size of the ratios as a fraction of their number: 1 if they are all equal."""
    square = metrics.get("ratio/square_mean", 0.0)
    return {"ratio/effective_sample_fraction": metrics["ratio/mean"] ** 2 / square} if square > 0 else {}


def _mean_metrics(updates: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the updates that have it; ``ratio/max`` is the largest, and ``_last_update`` the last.

    In the last update, the policy differs most from the one that generated the rollouts: its clip fraction shows
    whether there are too many inner updates, which the mean hides.
    """
    names = dict.fromkeys(name for update in updates for name in update)
    values = {name: [u[name] for u in updates if name in u] for name in names}
    means = {name: sum(v) / len(v) for name, v in values.items()}
    if "ratio/max" in values:
        means["ratio/max"] = max(values["ratio/max"])
    if not updates:
        return {}
    last = ("ratio/clipped_fraction", "kl/old_nats", "ratio/effective_sample_fraction")
    return means | {f"{name}_last_update": updates[-1][name] for name in last if name in updates[-1]}
