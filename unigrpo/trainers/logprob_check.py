"""Checks that sampler and training path of a run give tokens the same log-probabilities."""

from __future__ import annotations

import logging

from unigrpo.config import RunConfig
from unigrpo.trainers.rollout_source import Generated
from unigrpo.workers.logprob_mismatch import LogprobGap, is_comparable, is_exact, mean_gap

logger = logging.getLogger(__name__)


class LogprobMismatchError(RuntimeError):
    """The sampler's log-probabilities are not those of the training path."""


class LogprobCheck:
    """Compares one sample of each prompt every ``train.logprob_mismatch_steps`` steps."""

    def __init__(self, config: RunConfig, num_ranks: int) -> None:
        self._config, self._num_ranks = config, num_ranks
        self._warned_tasks: set[str] = set()
        """Tasks whose log-probabilities cannot be compared, as the log says."""

    def is_due(self, step: int) -> bool:
        """Whether the samples of this step are compared."""
        every = self._config.train.logprob_mismatch_steps
        return every > 0 and step % every == 0

    def metrics(self, step: int, generated: Generated) -> dict[str, float]:
        """Returns the differences; empty if none are due.

        Raises:
            LogprobMismatchError: They are larger than rounding errors, and no cache explains them.
        """
        if not self.is_due(step):
            return {}
        first = generated.rollouts[:: self._config.rollout.n_samples_per_prompt]
        compared = [r for r in first if is_comparable(self._config, r.key.task)]
        compared = compared[: len(compared) // self._num_ranks * self._num_ranks]  # as many on every rank
        skipped = self._skipped_tasks({r.key.task for r in first})
        if not compared:
            return skipped
        gaps = generated.mismatch(compared)
        by_task: dict[str, list[tuple[LogprobGap, str]]] = {}
        for rollout, gap in zip(compared, gaps, strict=True):
            by_task.setdefault(rollout.key.task, []).append((gap, rollout.key.prompt_id))
        for task, found in by_task.items():
            self._check(task, found)
        return {
            "logprob_mismatch/largest_nats": max(gap.largest for gap in gaps),
            "logprob_mismatch/mean_nats": mean_gap(gaps),
            **skipped,
        }

    def _check(self, task: str, found: list[tuple[LogprobGap, str]]) -> None:
        """Raises LogprobMismatchError if the mean difference of a task, whose prompts are named, is too large."""
        limit = self._config.train.logprob_mismatch_limit
        mean, (worst, prompt) = mean_gap([gap for gap, _ in found]), max(found, key=lambda one: one[0].largest)
        if is_exact(self._config, task) and not mean <= limit:
            raise LogprobMismatchError(
                f"sampler and training path differ by {mean:.3g} nats a token of task {task} (at most "
                f"{worst.largest:.3g}, on {prompt}), more than train.logprob_mismatch_limit {limit}: they do not use "
                "the same model or input"
            )

    def _skipped_tasks(self, tasks: set[str]) -> dict[str, float]:
        """Returns how many of the tasks cannot be compared, and names them in the log when they first occur."""
        skipped = {task for task in tasks if not is_comparable(self._config, task)}
        if skipped - self._warned_tasks:
            logger.warning(
                "the check of log-probabilities leaves out the tasks %s: guidance or top_p changes the distribution "
                "that is sampled; rollout.image.score_guided scores guided images by this distribution",
                ", ".join(sorted(skipped)),
            )
            self._warned_tasks |= skipped
        return {"logprob_mismatch/skipped_tasks": float(len(skipped))}
