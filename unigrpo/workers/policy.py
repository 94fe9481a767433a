"""The policy of one rank: it samples responses, scores them, and makes the optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unigrpo.algorithm.masking import keyed_generator
from unigrpo.config import RunConfig, TextSamplingConfig
from unigrpo.data.prompting import decode_completion, encode_prompt
from unigrpo.models.checkpoint_io import save_companions
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Rollout, SampleRequest, TrainSample
from unigrpo.training.step import Engine
from unigrpo.training.unigrpo import micro_batches, unigrpo_updates
from unigrpo.workers.memory import peak_memory_gb
from unigrpo.workers.scoring import score


class PolicyWorker:
    """One rank of the policy. All ranks call each method together."""

    def __init__(self, config: RunConfig, engine: Engine, tokenizer: PreTrainedTokenizerBase) -> None:
        self._config = config
        self._engine = engine
        self._tokenizer = tokenizer
        self._vocabulary = Vocabulary.from_pretrained_parts(engine.model.config, tokenizer)
        self._version = 0

    def generate(self, requests: Sequence[SampleRequest], settings: TextSamplingConfig) -> list[Rollout]:
        """Samples one response for each request."""
        rollouts: list[Rollout] = []
        self._engine.model.eval()
        for batch in micro_batches(requests, self._config.rollout.micro_batch_size):
            rollouts += self._generate_batch(batch, settings)
        return rollouts

    def _generate_batch(self, requests: Sequence[SampleRequest], settings: TextSamplingConfig) -> list[Rollout]:
        seed = self._config.train.seed
        samples = sample_text(
            self._engine.model,
            [encode_prompt(r.prompt, self._tokenizer, self._vocabulary, self._config.data) for r in requests],
            settings,
            self._vocabulary,
            generators=[keyed_generator(seed, r.step, r.sample_id, "sample") for r in requests],
        )
        return [
            Rollout(
                request=request,
                policy_version=self._version,
                token_ids=sample.token_ids,
                response_mask=sample.response_mask,
                scored_mask=sample.scored_mask,
                completion=decode_completion(
                    sample.token_ids, sample.response_mask, self._tokenizer, self._vocabulary
                ),
                commit_step=sample.commit_step,
                commit_log_probs=sample.commit_log_probs,
            )
            for request, sample in zip(requests, samples, strict=True)
        ]

    def log_likelihood(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Log-probabilities (K, L) of each sample under its K mask plans and the present weights."""
        return score(self._engine, self._config, self._vocabulary.mask_id, samples)

    def update(self, samples: Sequence[TrainSample]) -> list[dict[str, float]]:
        """Makes the K optimizer steps.

        Returns:
            One entry, the metrics over all ranks, but ``ratio/max`` and ``ratio/first_update_deviation`` of this one.
        """
        metrics = unigrpo_updates(self._engine, self._config, self._vocabulary.mask_id, samples)
        self._version += self._config.train.num_inner_updates
        return [metrics]

    def peak_memory_gb(self) -> float:
        """Largest memory this process has used: of its GPU, or of the process on a CPU."""
        return peak_memory_gb(self._engine.device)

    def save(self, folder: Path) -> None:
        """Writes everything that :meth:`load` needs to go on exactly."""
        self._engine.save(folder / "policy")

    def load(self, folder: Path, policy_version: int) -> None:
        """Goes on from what :meth:`save` wrote."""
        self._engine.load(folder / "policy")
        self._version = policy_version

    def export(self, folder: Path) -> None:
        """Writes the policy as a Hugging Face folder with its tokenizer."""
        self._engine.export(folder)
        if self._engine.rank == 0:
            save_companions(self._engine.model.config, self._tokenizer, folder)
        self._engine.barrier()
