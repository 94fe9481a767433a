"""Generation of rollouts by any worker with the policy, and the rollout worker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unigrpo.batches import GeneratedBatch, LogProbs, TrajectoryBatch
from unigrpo.config import ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.image_store import ArrayStore, StoredImage
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Rollout, SampleRequest
from unigrpo.rng import keyed_generator
from unigrpo.training.batching import micro_batches
from unigrpo.training.scoring import ScoringSettings, score
from unigrpo.workers.flop_meter import FlopMeter
from unigrpo.workers.generation import TaskSampler
from unigrpo.workers.logprob_mismatch import LogprobGap, logprob_gaps


@runtime_checkable
class WeightChannel(Protocol):
    """Carries tensors from the first policy rank to all rollout workers."""

    def broadcast(self, tensor: Shaped[Tensor, "*_"]) -> None:
        """Sends the first rank's tensor, which is written in place on the others."""
        ...


class RolloutGenerator:
    """Generates rollouts with given weights."""

    def __init__(
        self,
        config: RunConfig,
        model_config: Any,
        tokenizer: PreTrainedTokenizerBase,
        image_tokenizer: ImageTokenizer | None,
    ) -> None:
        self._config = config
        self.tokenizer = tokenizer
        self.image_tokenizer = image_tokenizer
        self.vocabulary = Vocabulary.from_pretrained_parts(model_config, tokenizer)
        self._sampler = TaskSampler(
            tokenizer=tokenizer,
            vocabulary=self.vocabulary,
            data=config.data,
            image_tokenizer=image_tokenizer,
            resolution=config.image.resolution,
            fit=config.image.fit,
            max_text_tokens=config.rollout.max_text_tokens or model_config.max_text_tokens,
        )

    def generate(
        self,
        model: PreTrainedModel,
        version: int,
        requests: Sequence[SampleRequest],
        text: TextSamplingConfig,
        image: ImageSamplingConfig,
    ) -> GeneratedBatch:
        """Generates one rollout for each request, in batches of one task.

        Args:
            model: The whole policy.
            version: Version of its weights.
            requests: Samples to generate.
            text: Sampling settings of text.
            image: Sampling settings of images.
        """
        image = replace(image, num_image_tokens=self._sampler.num_image_tokens)
        rollouts: dict[int, Rollout] = {}
        for task in dict.fromkeys(request.prompt.task for request in requests):
            rows = [i for i, request in enumerate(requests) if request.prompt.task == task]
            rows.sort(key=lambda i: len(requests[i].prompt.text))  # prompts of similar length: little padding
            for part in micro_batches(rows, self._config.rollout.micro_batch_size):
                generated = self._generate(model, version, [requests[i] for i in part], text, image)
                rollouts |= dict(zip(part, generated, strict=True))
        batch = GeneratedBatch.of([rollouts[i] for i in range(len(requests))])
        return batch.stored(ArrayStore(batch.pixels()))  # one store instead of one for each image

    def _generate(
        self,
        model: PreTrainedModel,
        version: int,
        requests: Sequence[SampleRequest],
        text: TextSamplingConfig,
        image: ImageSamplingConfig,
    ) -> list[Rollout]:
        # On the model's device: noise over a whole vocabulary takes longer to sample and copy than a pass does.
        key = self._config.seed
        generators = [keyed_generator(key, r.step, r.sample_id, "sample", device=model.device) for r in requests]
        prompts = [request.prompt for request in requests]
        samples = self._sampler.generate(model, prompts, text, image, generators)
        images = self._sampler.images(samples)
        return [
            Rollout(
                key=request.key,
                prompt=request.prompt,
                policy_version=version,
                completion=self._sampler.completion(sample),
                raw_completion=self._sampler.raw_completion(sample),
                is_full_length=self._sampler.is_full_length(sample),
                image=None if pixels is None else StoredImage(ArrayStore([np.asarray(pixels)]), 0),
                **vars(sample),
            )
            for request, sample, pixels in zip(requests, samples, images, strict=True)
        ]


class RolloutWorker:
    """A whole copy of the policy that generates rollouts, and scores them under the weights that generated them."""

    def __init__(
        self,
        config: RunConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        image_tokenizer: ImageTokenizer | None = None,
    ) -> None:
        self.forward = model
        self.device: torch.device = model.device
        self.channel: WeightChannel | None = None
        """Weight channel, set before weights are received."""
        self._config = config
        self._generator = RolloutGenerator(config, model.config, tokenizer, image_tokenizer)
        self._scoring = ScoringSettings.of_run(config, self._generator.vocabulary)
        self.meter = FlopMeter(model, config.ds.lora)

    def generate(
        self, requests: Sequence[SampleRequest], version: int, text: TextSamplingConfig, image: ImageSamplingConfig
    ) -> GeneratedBatch:
        """Generates one rollout for each request with the present weights, which are of this version."""
        return self._generator.generate(self.forward, version, requests, text, image)

    def log_likelihood(self, batch: TrajectoryBatch, updates: Sequence[int] | None = None) -> LogProbs:
        """Returns the log-probabilities of :func:`~unigrpo.training.scoring.score` under this worker's present
        weights."""
        return LogProbs.of(score(self, self._config, self._scoring, batch.samples(), updates))

    def max_over_ranks(self, number: int) -> int:
        """Returns the number itself, because rollout workers make their passes independently."""
        return number

    def logprob_mismatch(self, batch: TrajectoryBatch) -> list[LogprobGap]:
        """Returns what :meth:`~unigrpo.workers.policy.PolicyWorker.logprob_mismatch` returns, with this worker's
        present weights."""
        size = self._config.train.micro_batch_size
        return logprob_gaps(self.forward, batch.samples(), self._scoring, self.device, self._config.seed, size)

    def receive_weights(self) -> None:
        """Receives the weights that the policy sends."""
        assert self.channel is not None, "the worker was not connected with the policy"
        for weight in trained(self.forward):
            self.channel.broadcast(weight.data)


def trained(model: PreTrainedModel) -> Iterable[torch.nn.Parameter]:
    """Returns the weights that training changes, in the order in which they are sent."""
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
