"""The loop of a pretraining or Mix-CoT stage: steps, validations, checkpoints. It sees a group, never Ray."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from unigrpo.config.denoising import StageConfig
from unigrpo.evaluation.denoising import ValidationResult, validate
from unigrpo.records import Prompt
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.workers.denoising import DenoisingWorker
from unigrpo.workers.group import WorkerGroup

logger = logging.getLogger(__name__)


class StageOutput(Protocol):
    """Where a stage writes; see :mod:`unigrpo.runs.directory`."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Metrics of one step."""
        ...

    def results(self, step: int, results: ValidationResult) -> None:
        """Samples and pictures of one validation."""
        ...

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Shows a finished step to the user."""
        ...


@dataclass
class StageState:
    """What a resumed stage needs besides weights; data positions and random numbers follow from the step."""

    step: int = 0
    """Finished steps."""
    before: dict[str, float] = field(default_factory=dict[str, float])
    """Validation metrics before the first step."""
    broken: dict[str, float] = field(default_factory=dict[str, float])
    """Samples that could not be used, as metrics by modality and source."""
    wall_seconds: float = 0.0
    """Training time of all sessions of the run."""
    num_policy_ranks: int = 1
    """Ranks that the optimizer states are sharded over."""


class StageTrainer:
    """Runs the steps of a stage on its worker group."""

    def __init__(
        self,
        config: StageConfig,
        *,
        workers: WorkerGroup,
        validation_prompts: list[Prompt],
        checkpoints: CheckpointStore,
    ) -> None:
        """Args:
        config: The stage.
        workers: Denoising workers.
        validation_prompts: Fixed prompts of all tasks; empty generates nothing.
        checkpoints: Where checkpoints go.
        """
        self.config = config
        self.workers = workers
        self.validation_prompts = validation_prompts
        self.checkpoints = checkpoints
        self.state = StageState(num_policy_ranks=config.actor.num_ranks)

    def fit(self, output: StageOutput) -> dict[str, Any]:
        """Runs all steps that are left, with validations and checkpoints.

        Returns:
            The summary: steps, seconds, and the validation metrics before and after.
        """
        config, state = self.config, self.state
        started = time.monotonic() - state.wall_seconds
        after = state.before
        if state.step in (0, config.train.num_steps):  # a resumed run that had ended measures once more
            after = self.validate(output)
            state.before = state.before or after
            if state.step == 0:
                output.metrics(0, after)
        for step in range(state.step, config.train.num_steps):
            step_started = time.monotonic()
            values = step_metrics(self.workers.call(DenoisingWorker.train_step, step))
            broken = {name: number for name, number in values.items() if name.startswith("broken/")}
            state.broken = dict(Counter(state.broken) + Counter(broken))
            values |= state.broken
            values["time/step_seconds"] = time.monotonic() - step_started
            values["memory/peak_gb"] = max(self.workers.call(DenoisingWorker.peak_memory_gb))
            state.step = step + 1
            state.wall_seconds = time.monotonic() - started
            is_last = state.step == config.train.num_steps
            if is_last or self._is_due(config.validation.steps):
                after = self.validate(output)
                values |= after
            output.metrics(state.step, values)
            output.progress(state.step, values)
            if is_last or self._is_due(config.ckpt.save_steps):
                self.save(values)
        return {
            "steps": state.step,
            "wall_seconds": round(state.wall_seconds, 1),
            "eval": {"before": state.before, "after": after},
        }

    def validate(self, output: StageOutput) -> dict[str, float]:
        """Held-out losses, and samples for the fixed prompts."""
        logger.info("validating at step %d", self.state.step)
        metrics, results = validate(self.workers, self.validation_prompts, self.config)
        output.results(self.state.step, results)
        return metrics

    def save(self, values: dict[str, float]) -> None:
        """Writes a checkpoint of the present state."""
        self.checkpoints.save(
            self.state.step,
            dataclasses.asdict(self.state),
            lambda folder: [self.workers.call(DenoisingWorker.save, folder), None][1],
            values.get(self.config.ckpt.best_metric_key),
        )

    def resume(self) -> int:
        """Goes on from the newest whole checkpoint. Returns the number of finished steps, 0 without a checkpoint."""
        found = self.checkpoints.latest()
        if found is None:
            return 0
        self.state = StageState(**found.state)
        self.workers.call(DenoisingWorker.load, found.folder)
        return self.state.step

    def export(self, folder: Path) -> None:
        """Writes the model as a Hugging Face folder, which the next stage or UniGRPO starts from."""
        self.workers.call(DenoisingWorker.export, folder)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0


def step_metrics(ranks: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of a step out of those of each rank: counts add up, mask ratios are averaged; the rest is rank 0's."""
    merged = dict(ranks[0])
    for name in {name for rank in ranks for name in rank}:
        if name.startswith(("broken/", "tokens/", "mask_ratio/")):
            total = sum(rank.get(name, 0.0) for rank in ranks)
            merged[name] = total / len(ranks) if name.startswith("mask_ratio/") else total
    return merged
