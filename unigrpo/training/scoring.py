"""Per-token log-likelihoods of finished responses under a mask plan, for policy, old policy and reference alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo.algorithm.likelihood.base import combine_views
from unigrpo.algorithm.masking import apply_mask
from unigrpo.config import RunConfig
from unigrpo.data.collate import ScoringBatch, scoring_batch
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import TrainSample
from unigrpo.training.batching import length_batches


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """What the sampler drew from, so that scoring looks at the same distribution."""

    mask_id: int
    """Token that hides."""
    image_slice: tuple[int, int]
    """First and one-past-last id of the image codes."""
    text_temperature: float
    image_temperature: float

    @classmethod
    def of_run(cls, config: RunConfig, vocabulary: Vocabulary) -> ScoringSettings:
        """The settings of a run."""
        return cls(
            mask_id=vocabulary.mask_id,
            image_slice=vocabulary.image_slice,
            text_temperature=config.rollout.text.temperature,
            image_temperature=config.rollout.image.temperature,
        )

    def of(self, is_image: Bool[Tensor, " N"]) -> dict[str, Any]:
        """Arguments of the model's forward pass for tokens of which some are image codes."""
        if not is_image.any():
            return {"temperature": self.text_temperature}
        if is_image.all():
            return {"temperature": self.image_temperature, "vocab_slice": self.image_slice}
        temperature = torch.where(is_image, self.image_temperature, self.text_temperature)
        return {"temperature": temperature, "vocab_slice": self.image_slice, "is_sliced": is_image}


def log_likelihood(
    forward: Callable[..., Any], batch: ScoringBatch, settings: ScoringSettings
) -> Float[Tensor, "B L"]:
    """The estimate of every scored token's log-probability.

    All views go through the model in one pass, and the head is applied only to the positions that a view scores.

    Args:
        forward: The model, or the engine that holds it.
        batch: Sequences and their mask plan.
        settings: Vocabularies and temperatures, as in sampling.

    Returns:
        Nats, float32; 0 where not scored.
    """
    plan = batch.plan
    num_views = plan.is_masked.shape[0]
    xt = apply_mask(batch.token_ids, plan.is_masked, settings.mask_id)
    is_read = plan.weight > 0
    token_mask = batch.masks.token_mask
    targets = batch.token_ids.expand(num_views, -1, -1)[is_read]
    out = forward(
        xt.flatten(0, 1),
        attention_mask=None if token_mask.all() else token_mask.repeat(num_views, 1),
        positions=is_read.flatten(0, 1),
        targets=targets,
        **settings.of(batch.image_mask.expand(num_views, -1, -1)[is_read]),
    )
    view_log_probs = torch.zeros_like(plan.weight).masked_scatter(is_read, out.log_probs)
    return combine_views(view_log_probs, plan)


@runtime_checkable
class Scorer(Protocol):
    """A model behind a forward pass, on a device."""

    forward: Callable[..., Any]
    device: torch.device


@torch.no_grad()
def score(
    scorer: Scorer, config: RunConfig, settings: ScoringSettings, samples: Sequence[TrainSample]
) -> list[Tensor]:
    """Log-probabilities (K, L) of each sample under its K mask plans; nats, 0 where not scored."""
    results: dict[int, Tensor] = {}
    for rows in length_batches(samples, config.train.micro_batch_size):
        batch = [samples[i] for i in rows]
        by_update = [
            log_likelihood(scorer.forward, scoring_batch(batch, k, scorer.device), settings)
            for k in range(config.train.num_inner_updates)
        ]
        padded = torch.stack(by_update, dim=1).cpu()  # (B, K, L)
        for i, sample, log_probs in zip(rows, batch, padded, strict=True):
            results[i] = log_probs[:, : len(sample.rollout.token_ids)].clone()
    return [results[i] for i in range(len(samples))]
