"""The UniGRPO loop: prompts, rollouts, rewards, scores, advantages, inner updates. It calls worker groups and not
Ray."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from unigrpo.algorithm.advantage.base import load_advantage
from unigrpo.algorithm.group_filter.base import kept_groups, load_group_filter
from unigrpo.algorithm.objective.base import load_objective
from unigrpo.batches import TrainBatch, TrajectoryBatch, WholeGroups
from unigrpo.config import RESPONSE_SPANS, RunConfig
from unigrpo.data.prompt_stream import PromptStream, balance_across_ranks, prompt_weights
from unigrpo.evaluation.held_out import evaluate, reward_row
from unigrpo.records import Prompt, RewardOutput, Rollout, SampleRequest, TrainSample
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.image_grid import IMAGES, captioned_grid
from unigrpo.trainers.base import Output, Trainer, TrainState, prompt_row
from unigrpo.trainers.logprob_check import LogprobCheck
from unigrpo.trainers.rollout_source import ColocatedRollouts, DisaggregatedRollouts, Generated, RolloutSource
from unigrpo.training.behaviour import check_behaviour
from unigrpo.training.inner_batch import with_their_groups
from unigrpo.training.reward_aggregation import RewardAggregator, span_advantages
from unigrpo.training.reward_failures import FailureGuard
from unigrpo.training.reward_metrics import advantage_metrics, reward_metrics, task_metrics
from unigrpo.training.rollout_metrics import rollout_metrics
from unigrpo.training.train_samples import Rewarded, train_samples
from unigrpo.workers.group import WorkerGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reference import ReferenceWorker
from unigrpo.workers.reward import RewardScorer

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass
class UniGRPOState(TrainState):
    """The state of a UniGRPO run."""

    policy_version: int = 0
    """Number of optimizer steps of the policy."""
    num_skipped: int = 0
    """Number of optimizer steps that were skipped because their loss or gradient was not finite."""


ByPlace = dict[int, tuple[Tensor, ...] | None]
"""Log-probabilities by the place of the sample."""
Scores = tuple[ByPlace, ByPlace, ByPlace]
"""Old log-probabilities, those of the reference, and those of the behaviour policy where it is not the old one."""


class UniGRPOTrainer(Trainer[RunConfig, UniGRPOState]):
    """Generates responses, scores them and updates the policy."""

    phases = ("generate", "reward", "score", "update", "sync")
    """Phases of a step; `sync` sends the weights to rollout workers."""
    evaluation_prefix = "eval/"

    def __init__(
        self,
        config: RunConfig,
        *,
        policy: WorkerGroup,
        reference: WorkerGroup | None,
        rollout: WorkerGroup | None = None,
        reward: RewardScorer,
        prompts: list[Prompt],
        eval_prompts: list[Prompt],
        checkpoints: CheckpointStore,
    ) -> None:
        """Sets up a run.

        Args:
            config: The run.
            policy: Policy workers.
            reference: Reference workers; None if the KL coefficient is 0, or the policy's base is the reference
                (LoRA).
            rollout: Rollout workers; None generates on the policy's workers.
            reward: Scores rollouts.
            prompts: Prompts to train on.
            eval_prompts: Held-out prompts; empty for no evaluation.
            checkpoints: Store of the checkpoints.
        """
        groups = {"policy": policy, "reference": reference, "rollout": rollout}
        state = UniGRPOState(num_policy_ranks=config.actor.num_ranks)
        super().__init__(config, state, groups, checkpoints, config.eval.steps)
        self.policy, self.reference, self.rollout, self.reward = policy, reference, rollout, reward
        self.eval_prompts = eval_prompts
        settings, train = config.rollout, config.train
        weights, number = prompt_weights(config.data), settings.num_sampled_prompts
        self.prompts = PromptStream(prompts, number, settings.n_samples_per_prompt, train.seed, weights)
        self.source: RolloutSource = ColocatedRollouts(config, policy, self._requests)
        if rollout is not None:
            self.source = DisaggregatedRollouts(config, policy, self._requests, rollout)
        self.reward_aggregator = RewardAggregator(config.reward, reward.names)
        self.failure_guard = FailureGuard(config.reward, reward.names)
        self.advantage = load_advantage(config.algo.advantage.file, config.algo.advantage.options)
        chosen = config.algo.group_filter
        self.group_filter = load_group_filter(chosen.name, chosen.options) if chosen.name else None
        self.objective = load_objective(config.algo.objective.name, config.algo.objective.arguments)
        check_behaviour(config, self.objective)
        self.logprob_check = LogprobCheck(config, policy.size)

    def train_step(self, step: int, output: Output) -> dict[str, float]:
        """Runs one step, from prompts to new weights. Returns its metrics."""
        timer, version = self.timer, self.state.policy_version
        generated = self.source.generate(step, version, timer.phase)
        rollouts = generated.rollouts
        wait_for_rewards = self.reward.start(rollouts)  # their processes work while the models score
        mismatch = self.logprob_check.metrics(step, generated)
        early = [i for i, rollout in enumerate(rollouts) if not self._waits_for_rewards(step, rollout)]
        scores = self._start_scores(step, generated, early)
        if len(early) == len(rollouts):
            generated.release()
        with timer.phase("score"):
            known = scores()
        with timer.phase("reward"):
            outputs, reward_work = wait_for_rewards()
        rewarded = self._rewarded(rollouts, outputs)
        kept = self._kept(rollouts, rewarded)
        late = self._with_gradient(rollouts, rewarded, sorted(set(kept) - set(early)))
        with timer.phase("score"):
            for one, more in zip(known, self._start_scores(step, generated, late)(), strict=True):
                one.update(more)
        generated.release()
        updates: list[dict[str, float]] = []
        totals, valid, advantages = rewarded.totals, rewarded.valid, rewarded.advantages
        if self.failure_guard.check_missing(outputs, valid, rollouts) and valid.any():
            self.failure_guard.check_spread(advantages[kept], outputs, rollouts)
            with timer.phase("update"):
                updates = self._update(train_samples(rollouts, rewarded, kept, *known)) if kept else []
        self._move_reference(step)
        rewards = [reward_row(t, o) for t, o in zip(totals.tolist(), outputs, strict=True)]
        output.rollouts(step + 1, self._rows(step, rollouts, rewards, advantages))
        return {
            **reward_metrics(outputs, totals, rewarded.groups, valid),
            **task_metrics([r.key.task for r in rollouts], outputs, totals, rewarded.groups, valid),
            **reward_work,
            **advantage_metrics(advantages),
            **_over_ranks(updates),
            **mismatch,
            **rollout_metrics(rollouts, version),
            **self._throughput(rollouts),
            "rollout/kept_groups": float(len(set(rewarded.groups[kept].tolist()))),
            "policy_version": float(self.state.policy_version),
        }

    def _throughput(self, rollouts: list[Rollout]) -> dict[str, float]:
        """Returns what is generated per second of generation, whether or not the trainer waits for it."""
        group = self.rollout or self.policy
        seconds = group.stats.mean_seconds("generate")
        if not seconds:  # workers in this process did it in the step before
            return {}
        made = {
            "tokens": sum(int(r.response_mask.sum()) for r in rollouts),
            "images": sum(r.image is not None for r in rollouts),
        }
        rates = {f"throughput/{what}_per_second": number / seconds for what, number in made.items()}
        return rates | {f"{name}_per_gpu": rate / group.size for name, rate in rates.items()}

    def _requests(self, step: int) -> list[SampleRequest]:
        return balance_across_ranks(self.prompts.requests(step), self.policy.size)

    def _rewarded(self, rollouts: list[Rollout], outputs: Sequence[RewardOutput]) -> Rewarded:
        """Returns totals and advantages of the samples of a step."""
        groups = torch.tensor([rollout.key.group_id for rollout in rollouts])
        totals, valid = self.reward_aggregator.aggregate(outputs, groups)
        by_span = self.reward_aggregator.span_totals(outputs, groups, [rollout.key.task for rollout in rollouts])
        spread = self.config.algo.advantage.min_spread
        advantages = span_advantages(by_span, groups, valid, self.advantage, min_spread=spread).float()
        return Rewarded(groups=groups, totals=totals, by_span=by_span, valid=valid, advantages=advantages)

    def _kept(self, rollouts: Sequence[Rollout], rewarded: Rewarded) -> list[int]:
        """Returns the places of the samples that the step trains on, in the order in which the ranks get them."""
        if self.group_filter is None:
            return list(range(len(rollouts)))
        number = self.config.rollout.batch_size
        groups = set(kept_groups(rewarded.by_span, rewarded.groups, rewarded.valid, self.group_filter, number))
        return self._balanced(rollouts, [i for i, r in enumerate(rollouts) if r.key.group_id in groups])

    def _balanced(self, rollouts: Sequence[Rollout], places: Sequence[int]) -> list[int]:
        """Returns the places of some samples in an order that gives each rank as many of each task."""
        by_id = {rollouts[i].key.sample_id: i for i in places}
        in_order = [rollouts[by_id[sample_id]] for sample_id in sorted(by_id)]
        return [by_id[rollout.key.sample_id] for rollout in balance_across_ranks(in_order, self.policy.size)]

    def _waits_for_rewards(self, step: int, rollout: Rollout) -> bool:
        """Whether a sample is scored after its reward is known, because it may need no scores.

        This holds for samples that a group filter may leave out, and for samples without a KL, which have no gradient
        if their advantage is 0. Rollouts that are generated a step ahead are scored at once, because their workers
        then generate the next ones.
        """
        if self.group_filter is not None:
            return True
        has_kl = self.config.has_reference and self.config.kl_coef(rollout.key.task) > 0
        return not (has_kl or self.logprob_check.is_due(step) or self.config.rollout.max_staleness)

    def _with_gradient(self, rollouts: Sequence[Rollout], rewarded: Rewarded, places: Sequence[int]) -> list[int]:
        """Returns those of some samples that the update scores: with a reward, and with an advantage or a KL."""
        counted = [i for i in places if rewarded.valid[i]]
        kl = [self.config.has_reference and self.config.kl_coef(rollouts[i].key.task) > 0 for i in counted]
        active = [bool(rewarded.advantages[i].any()) or has_kl for i, has_kl in zip(counted, kl, strict=True)]
        scored = with_their_groups(active, rewarded.groups[counted].tolist(), self.objective)
        return self._balanced(rollouts, [i for i, one in zip(counted, scored, strict=True) if one])

    def _start_scores(self, step: int, generated: Generated, places: Sequence[int]) -> Callable[[], Scores]:
        """Computes old log-probabilities of some samples, and starts those of the reference.

        Returns:
            A function that waits for the reference and returns the scores by place.
        """
        with self.timer.phase("score"):
            reference = self._start_reference(generated.rollouts, places)
            old: ByPlace = {}
            behaviour: ByPlace = {}
            if "old" in self.objective.needs and places:
                samples = [generated.rollouts[i] for i in places]
                found = generated.old_log_probs(samples, self.logprob_check.is_due(step))
                if "behaviour" in self.objective.needs and samples[0].policy_version != self.state.policy_version:
                    behaviour = dict(zip(places, found, strict=True))
                    found = self._proximal(samples)
                old = dict(zip(places, found, strict=True))
        return lambda: (old, reference(), behaviour)

    def _start_reference(
        self, rollouts: Sequence[Rollout], places: Sequence[int]
    ) -> Callable[[], dict[int, tuple[Tensor, ...] | None]]:
        """Returns a function that waits for the reference's log-probabilities of some samples. On its own GPUs, the
        reference starts at once.

        Rollouts of tasks without a KL are not sent to it.
        """
        config = self.config
        needs_pass = config.has_reference and config.algo.kl.estimator != "exact"
        needed = [i for i in places if needs_pass and config.kl_coef(rollouts[i].key.task)]
        if not needed:
            return dict
        sent = TrajectoryBatch.of([rollouts[i] for i in needed])
        if self.reference is None:
            wait = partial(self.policy.map, PolicyWorker.base_log_likelihood, sent)
        elif config.has_dedicated_reference_gpus:
            wait = self.reference.start_map(ReferenceWorker.log_likelihood, sent)
        else:
            wait = partial(self.reference.map, ReferenceWorker.log_likelihood, sent)
        return lambda: dict(zip(needed, wait().rows(), strict=True))

    def _update(self, samples: list[TrainSample]) -> list[dict[str, float]]:
        """Makes the inner updates. Returns the metrics of each rank."""
        kind = WholeGroups if self.objective.scope == "group" else TrainBatch
        updates = self.policy.map(PolicyWorker.update, kind.of(samples), self.state.num_skipped)
        self.state.num_skipped += int(updates[0]["update/skipped"])
        self.state.policy_version += self.config.train.num_inner_updates
        return updates

    def _proximal(self, samples: Sequence[Rollout]) -> Sequence[tuple[Tensor, ...] | None]:
        """Returns log-probabilities under the policy before the inner updates, of which the first computes its own."""
        updates = list(range(1, self.config.train.num_inner_updates))
        if not updates:
            return [None] * len(samples)
        return self.policy.map(PolicyWorker.log_likelihood, TrajectoryBatch.of(samples), updates).rows()

    def _move_reference(self, step: int) -> None:
        """Updates the reference from the policy every ``algo.reference.reset_steps`` steps."""
        every = self.config.algo.reference.reset_steps
        if self.reference is None or every == 0 or (step + 1) % every:
            return
        with self.timer.phase("sync"), self.checkpoints.scratch("policy") as folder:
            self.policy.call(PolicyWorker.write_weights, folder)
            self.reference.call(ReferenceWorker.move_to, folder)

    def evaluate(self, output: Output) -> dict[str, float]:
        """Returns held-out metrics, empty without held-out prompts, and writes the greedy completions."""
        if not self.eval_prompts:
            return {}
        logger.info("evaluating on %d held-out prompts", len(self.eval_prompts))
        found = evaluate(self.policy, self.reward, self.eval_prompts, self.config, self.state.policy_version)
        by_task: dict[str, list[tuple[Rollout, dict[str, Any]]]] = {}
        for rollout, rewards in zip(found.rollouts, found.rewards, strict=True):
            by_task.setdefault(rollout.key.task, []).append((rollout, rewards))
        number = max(8, self.config.logger.rollouts_per_step)
        chosen = [one for task in by_task.values() for one in spread(task, number)]
        images = [None if rollout.image is None else rollout.image.pixels() for rollout, _ in chosen]
        output.rollouts(self.state.step, [_row("eval", rollout) | rewards for rollout, rewards in chosen], images)
        output.scores(self.state.step, found.scores)
        columns = [
            (rollout.prompt.text, (image,))
            for (rollout, _), image in zip(chosen, images, strict=True)
            if image is not None
        ]
        if columns:
            output.images(self.state.step, {IMAGES: captioned_grid(columns)})
        return found.metrics

    def shown(self, values: dict[str, float]) -> dict[str, str]:
        """Returns rewards, the KL if it is measured, and seconds. With several tasks each has its reward: a total also
        changes with the mix of prompts."""
        prefix = "reward/total_mean/"
        rewards = {name.removeprefix(prefix): f"{v:.3f}" for name, v in values.items() if name.startswith(prefix)}
        if len(rewards) < 2:
            rewards = {"reward": f"{values.get('reward/total_mean', math.nan):.3f}"}
        has_kl = self.config.has_reference and "kl/reference_nats" in values
        return {
            **rewards,
            **({"KL": f"{values['kl/reference_nats']:.4f}"} if has_kl else {}),
            "s/step": f"{values['time/step_seconds']:.2f}",
        }

    def load_model(self, folder: Path) -> None:
        """Loads policy and reference of a checkpoint."""
        super().load_model(folder)
        if self.reference is not None:
            self.reference.call(ReferenceWorker.load, folder)

    def _save_model(self, folder: Path) -> None:
        super()._save_model(folder)
        if self.reference is not None:
            self.reference.call(ReferenceWorker.save, folder)

    def _rows(
        self, step: int, rollouts: list[Rollout], rewards: list[dict[str, Any]], advantages: torch.Tensor
    ) -> list[dict[str, Any]]:
        """Returns rollouts of this step to look at: one of each of a few prompts, of the tasks in turn."""
        groups = range(0, len(rollouts), self.config.rollout.n_samples_per_prompt)
        tasks = sorted({rollouts[i].key.task for i in groups})
        seen: Counter[str] = Counter()
        order: list[tuple[int, int, int]] = []
        for i in groups:
            task = rollouts[i].key.task
            order.append((seen[task], (tasks.index(task) - step) % len(tasks), i))
            seen[task] += 1
        picked = [i for *_, i in sorted(order)[: self.config.logger.rollouts_per_step]]
        return [
            _row("train", rollouts[i]) | rewards[i] | {"advantage": _written_advantage(rollouts[i], advantages[i])}
            for i in picked
        ]


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """Returns at most so many items, evenly spaced: the first ones of a file are often all of one kind.

    >>> spread([0, 1, 2, 3, 4, 5], 3)
    [0, 2, 4]
    """
    count = min(len(items), number)
    return [items[i * len(items) // count] for i in range(count)]


def _over_ranks(updates: list[dict[str, float]]) -> dict[str, float]:
    """Returns the update's metrics; all but the maxima are the same on every rank already."""
    if not updates:
        return {}
    maxima = ("ratio/max", "ratio/first_update_deviation")
    return updates[0] | {name: max(update[name] for update in updates) for name in maxima if name in updates[0]}


def _written_advantage(rollout: Rollout, advantages: Tensor) -> float | dict[str, float]:
    """Returns the advantage of a response, or of each of its parts by name if the rewards tell them apart."""
    rounded = [round(value, 4) for value in advantages.tolist()]
    spans = RESPONSE_SPANS[rollout.key.task]
    return rounded[0] if len(rounded) == 1 else dict(zip(spans, rounded, strict=False))


def _row(kind: str, rollout: Rollout) -> dict[str, Any]:
    tokens = int(rollout.scored_mask.sum())
    row = prompt_row(kind, rollout.prompt, rollout.completion)
    return row | {
        "raw_completion": rollout.raw_completion,
        "tokens": tokens,
        "is_full_length": rollout.is_full_length,
    }
