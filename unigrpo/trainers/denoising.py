"""The loop of a pretraining or Mix-CoT stage: steps, validations, checkpoints. It calls a worker group and not Ray."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from unigrpo.config.denoising import StageConfig
from unigrpo.evaluation.denoising import ValidationResult, validate
from unigrpo.records import Prompt
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.image_grid import IMAGES, RECONSTRUCTIONS, captioned_grid
from unigrpo.trainers.base import Output, Trainer, TrainState, prompt_row
from unigrpo.workers.denoising import DenoisingWorker
from unigrpo.workers.group import WorkerGroup

logger = logging.getLogger(__name__)


@dataclass
class StageState(TrainState):
    """The state that a resumed stage needs besides weights. Data positions and random numbers depend on the step."""

    broken: dict[str, float] = field(default_factory=dict[str, float])
    """Number of samples that could not be used, as metrics by modality and source."""


class StageTrainer(Trainer[StageConfig, StageState]):
    """Runs the steps of a stage on its worker group."""

    def __init__(
        self,
        config: StageConfig,
        *,
        workers: WorkerGroup,
        validation_prompts: list[Prompt],
        checkpoints: CheckpointStore,
    ) -> None:
        """Connects the trainer to its workers.

        Args:
            config: The stage.
            workers: Denoising workers.
            validation_prompts: Fixed prompts of all tasks; empty generates nothing.
            checkpoints: Store of the checkpoints.
        """
        state = StageState(num_policy_ranks=config.actor.num_ranks)
        super().__init__(config, state, {"denoising": workers}, checkpoints, config.validation.steps)
        self.workers = workers
        self.validation_prompts = validation_prompts

    def train_step(self, step: int, output: Output) -> dict[str, float]:
        """Makes one optimizer step. Returns its metrics, and the samples of the whole run that could not be used."""
        values = step_metrics(self.workers.call(DenoisingWorker.train_step, step))
        broken = {name: number for name, number in values.items() if name.startswith("broken/")}
        self.state.broken = dict(Counter(self.state.broken) + Counter(broken))
        return values | self.state.broken

    def evaluate(self, output: Output) -> dict[str, float]:
        """Measures held-out losses, and writes samples for the fixed prompts and reconstructions of held-out
        images."""
        logger.info("validating at step %d", self.state.step)
        metrics, result = validate(self.workers, self.validation_prompts, self.config)
        rows = [prompt_row("eval", s.prompt, s.text) for s in result.samples]
        output.rollouts(self.state.step, rows, [s.image for s in result.samples])
        output.images(self.state.step, image_grids(result))
        return metrics

    def shown(self, values: dict[str, float]) -> dict[str, str]:
        """Returns losses and seconds."""
        losses = {name.removeprefix("loss/"): f"{v:.3f}" for name, v in values.items() if name.startswith("loss/")}
        return {**losses, "s/step": f"{values['time/step_seconds']:.2f}"}


def step_metrics(ranks: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns the metrics of a step from those of each rank: counts are added, mask ratios averaged, others are rank
    0's."""
    merged = dict(ranks[0])
    for name in {name for rank in ranks for name in rank}:
        if name.startswith(("broken/", "tokens/", "mask_ratio/")):
            total = sum(rank.get(name, 0.0) for rank in ranks)
            merged[name] = total / len(ranks) if name.startswith("mask_ratio/") else total
    return merged


def image_grids(result: ValidationResult) -> dict[str, Image]:
    """Returns the image grids of a validation: images with and without guidance, and reconstructions."""
    grids = {
        IMAGES: [(s.prompt.text, (s.image, s.image_unguided)) for s in result.samples if s.image is not None],
        RECONSTRUCTIONS: [
            (
                f"original, reconstruction, prediction at mask ratio {one.mask_ratio:.2f}",
                (one.original, one.reconstruction, one.prediction),
            )
            for one in result.reconstructions
        ],
    }
    return {name: captioned_grid(columns) for name, columns in grids.items() if columns}
