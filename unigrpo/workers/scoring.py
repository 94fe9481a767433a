"""Scoring without gradient, in the micro-batches of the update, so that the first ratio is exactly 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from unigrpo.config import RunConfig
from unigrpo.data.collate import scoring_batch
from unigrpo.records import TrainSample
from unigrpo.training.scoring import ScoringSettings, log_likelihood
from unigrpo.training.unigrpo import length_batches


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
