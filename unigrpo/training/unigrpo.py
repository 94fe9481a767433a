"""The K optimizer steps that UniGRPO makes on one rollout batch, as one rank sees them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unigrpo.algorithm.likelihood.base import scored_tokens
from unigrpo.algorithm.reduction import Denominators
from unigrpo.algorithm.unigrpo_loss import ObjectiveSums, unigrpo_loss
from unigrpo.config import TASKS, RunConfig
from unigrpo.data.collate import ScoringBatch, padded_log_probs, scoring_batch
from unigrpo.records import TrainSample
from unigrpo.training.batching import NonFiniteLossError, length_batches
from unigrpo.training.optimizer_step import Engine
from unigrpo.training.scoring import ScoringSettings, log_likelihood


def unigrpo_updates(
    engine: Engine, config: RunConfig, settings: ScoringSettings, samples: Sequence[TrainSample]
) -> dict[str, float]:
    """Makes one optimizer step for each of the K mask plans.

    Args:
        engine: The policy and its optimizer.
        config: The run.
        settings: Vocabularies and temperatures.
        samples: This rank's share of the rollout batch, scored by the old policy and the reference.

    Returns:
        Means over the K updates and all ranks; ``ratio/first_update_deviation`` is the largest distance of a ratio
        from 1 before the first of them, which is 0 unless scoring and training disagree.

    Raises:
        NonFiniteLossError: A loss was not finite (that update was not made), or a gradient norm was not.
    """
    engine.model.train()
    updates: list[dict[str, float]] = []
    for k in range(config.train.num_inner_updates):
        rate = engine.learning_rate()
        sums, deviation = _accumulate(engine, config, settings, samples, k)
        norm = engine.step()
        if not math.isfinite(norm):
            raise NonFiniteLossError(
                f"the gradient norm of inner update {k} is {norm}; {_first_samples(samples)}; this update was not made"
            )
        reduced = ObjectiveSums(
            sums=engine.all_reduce_sum(sums.sums),
            ratio_max=sums.ratio_max,
            by_task=engine.all_reduce_sum(sums.by_task),
        )
        metrics = reduced.metrics(TASKS) | {"grad_norm": norm, "learning_rate": rate}
        updates.append(metrics | ({"ratio/first_update_deviation": deviation} if k == 0 else {}))
    return _mean_metrics(updates)


def _accumulate(
    engine: Engine, config: RunConfig, settings: ScoringSettings, samples: Sequence[TrainSample], k: int
) -> tuple[ObjectiveSums, float]:
    """Adds up the gradients of one inner update over this rank's micro-batches."""
    denominators = _denominators(engine, config, samples, k)
    total: ObjectiveSums | None = None
    deviation = 0.0
    for rows in length_batches(samples, config.train.micro_batch_size):
        group = [samples[i] for i in rows]
        batch = scoring_batch(group, k, engine.device)
        log_probs = log_likelihood(engine.forward, batch, settings)
        old = padded_log_probs(group, "old_log_probs", k, engine.device)
        loss, sums = _loss(config, group, batch, log_probs, old, denominators, k)
        _check_finite(engine, loss, group, k)
        engine.backward(loss)
        deviation = max(deviation, (log_probs.detach() - old).exp().sub(1).abs().max().item())
        total = sums if total is None else total + sums
    assert total is not None, "a rank got no samples"
    return total, deviation


def _loss(
    config: RunConfig,
    group: Sequence[TrainSample],
    batch: ScoringBatch,
    log_probs: Tensor,
    old_log_probs: Tensor,
    denominators: Denominators,
    k: int,
) -> tuple[Tensor, ObjectiveSums]:
    device = log_probs.device
    has_reference = group[0].ref_log_probs is not None
    tasks = [s.rollout.request.prompt.task for s in group]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device)

    clips = [config.clip_bounds(task) for task in tasks]
    return unigrpo_loss(
        log_probs,
        old_log_probs,
        padded_log_probs(group, "ref_log_probs", k, device) if has_reference else None,
        torch.tensor([s.advantage for s in group], device=device),
        scored_tokens(batch.plan),
        torch.stack([s.mask_ratios[k] for s in group]).to(device),
        denominators=denominators,
        clip_low=column([low for low, _ in clips]),
        clip_high=column([high for _, high in clips]),
        kl_coef=column([config.kl_coef(task) for task in tasks]),
        loss_coef=column([config.loss_coef(task) for task in tasks]),
        task_ids=torch.tensor([TASKS.index(task) for task in tasks], device=device),
        num_tasks=len(TASKS),
        kl_estimator=config.algo.kl.estimator,
        aggregation=config.actor.loss_agg_mode,
    )


def _denominators(engine: Engine, config: RunConfig, samples: Sequence[TrainSample], k: int) -> Denominators:
    """Counts over all ranks."""
    tokens = sum(int((s.weight[k] > 0).any(dim=0).sum()) for s in samples)
    counts = engine.all_reduce_sum(torch.tensor([sum(s.is_valid for s in samples), tokens], dtype=torch.float64))
    return Denominators(
        num_responses=counts[0].item(),
        num_tokens=counts[1].item(),
        response_length=float(config.rollout.text.max_new_tokens),
    )


def _check_finite(engine: Engine, loss: Tensor, group: Sequence[TrainSample], k: int) -> None:
    """Raises on every rank if the loss of any rank is not finite, before a gradient of it exists."""
    bad = 0.0 if torch.isfinite(loss) else 1.0
    if engine.all_reduce_sum(torch.tensor([bad], dtype=torch.float64)).item() > 0:
        where = _first_samples(group) if bad else "on another rank"
        raise NonFiniteLossError(f"the loss of inner update {k} is {loss.item()}; {where}; this update was not made")


def _first_samples(group: Sequence[TrainSample]) -> str:
    requests = [s.rollout.request for s in group[:3]]
    named = ", ".join(f"{r.prompt.id} (sample {r.sample_id})" for r in requests)
    return f"the batch starts with {named}"


def _mean_metrics(updates: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the updates that have it; ``ratio/max`` is the largest."""
    names = dict.fromkeys(name for update in updates for name in update)
    values = {name: [u[name] for u in updates if name in u] for name in names}
    means = {name: sum(v) / len(v) for name, v in values.items()}
    return means | {"ratio/max": max(values["ratio/max"])}
