"""The policy of one rank, which generates responses, scores them, and makes the optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from unigrpo.batches import GeneratedBatch, LogProbs, TrainBatch, TrajectoryBatch
from unigrpo.config import ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.lora import without_lora
from unigrpo.models.sampling_defaults import SamplingDefaults
from unigrpo.records import SampleRequest
from unigrpo.training.optimizer_step import Engine
from unigrpo.training.scoring import ScoringSettings, score
from unigrpo.training.unigrpo import unigrpo_updates
from unigrpo.workers.logprob_mismatch import LogprobGap, logprob_gaps
from unigrpo.workers.rollout import RolloutGenerator, WeightChannel
from unigrpo.workers.trained import TrainedWorker


class PolicyWorker(TrainedWorker):
    """One rank of the policy. All ranks call each method together."""

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        image_tokenizer: ImageTokenizer | None = None,
    ) -> None:
        super().__init__(engine, config.ds.lora, tokenizer, image_tokenizer, SamplingDefaults.of_run(config))
        self._config = config
        self._generator = RolloutGenerator(config, engine.model.config, tokenizer, image_tokenizer)
        self._scoring = ScoringSettings.of_run(config, self._generator.vocabulary)
        self.channel: WeightChannel | None = None
        """Weight channel, set on the first rank if there are rollout workers."""

    def generate(
        self, requests: Sequence[SampleRequest], version: int, text: TextSamplingConfig, image: ImageSamplingConfig
    ) -> GeneratedBatch:
        """Generates one response for each request with the present weights, which are of this version."""
        self._engine.model.eval()
        with self._engine.whole_model() as model, self.meter.watch(model):
            return self._generator.generate(model, version, requests, text, image)

    def log_likelihood(self, batch: TrajectoryBatch, updates: Sequence[int] | None = None) -> LogProbs:
        """Returns the log-probabilities of :func:`~unigrpo.training.scoring.score` under the present weights."""
        return LogProbs.of(score(self._engine, self._config, self._scoring, batch.samples(), updates))

    def base_log_likelihood(self, batch: TrajectoryBatch) -> LogProbs:
        """Returns the same log-probabilities of the base model without LoRA adapters, which is the reference."""
        with without_lora(self._engine.model):
            return self.log_likelihood(batch)

    def logprob_mismatch(self, batch: TrajectoryBatch) -> list[LogprobGap]:
        """Returns the differences between the sampler's log-probabilities and the training path's, at one step of each
        rollout."""
        # Through the engine, as in training: a copy of the weights could not show that they differ.
        engine, size = self._engine, self._config.train.micro_batch_size
        return logprob_gaps(engine.forward, batch.samples(), self._scoring, engine.device, self._config.seed, size)

    def update(self, batch: TrainBatch, num_skipped: int = 0) -> list[dict[str, float]]:
        """Makes the K optimizer steps.

        Args:
            batch: This rank's part.
            num_skipped: Number of optimizer steps of the run that were skipped so far.

        Returns:
            One entry with the metrics over all ranks; ``ratio/max`` and ``ratio/first_update_deviation`` are of this
            rank.
        """
        return [unigrpo_updates(self._engine, self._config, self._scoring, batch.samples(), num_skipped)]

    def write_weights(self, folder: Path) -> None:
        """Writes the weights alone as a Hugging Face folder; all ranks call it."""
        self._engine.export(folder)

    def send_weights(self) -> None:
        """Sends the trained weights to the rollout workers; all ranks call it."""
        for weight in self._engine.trained_weights():
            if self.channel is not None:
                self.channel.broadcast(weight)
