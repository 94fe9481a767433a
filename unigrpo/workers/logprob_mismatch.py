"""Compares the sampler's log-probabilities with those of the training path, at the step at which tokens were fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unigrpo.config import RunConfig
from unigrpo.records import KeyedTrajectory
from unigrpo.rng import keyed_generator
from unigrpo.training.batching import micro_batches
from unigrpo.training.passes import PassRow, entry_log_probs
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.training.views import spans_of


@dataclass(frozen=True, kw_only=True)
class LogprobGap:
    """Difference between the log-probabilities that the sampler recorded and those of the training path, at one
    step."""

    total: float
    """Sum of absolute differences, nats."""
    largest: float
    num_tokens: int


def mean_gap(gaps: Sequence[LogprobGap]) -> float:
    """Returns the mean difference of the tokens of some samples, in nats."""
    return sum(gap.total for gap in gaps) / sum(gap.num_tokens for gap in gaps)


def is_comparable(config: RunConfig, task: str) -> bool:
    """Whether the sampler's probabilities are those that scoring computes: not those of a truncated vocabulary, or of
    guidance that scoring leaves out."""
    text, image = config.rollout.text, config.rollout.image
    plain_text = text.guidance_scale == 0 and text.top_p == 1
    same_image = image.guidance_scale == 0 or image.score_guided
    return {
        "text": plain_text,
        "mmu": plain_text,
        "t2i": same_image,
        "r2i": plain_text and same_image,
    }[task]


def is_exact(config: RunConfig, task: str) -> bool:
    """Whether the sampler computes exactly what the model does; with a cache it computes an approximation."""
    text, image = config.rollout.text.cache == "none", config.rollout.image.cache == "none"
    return {"text": text, "mmu": text, "t2i": image, "r2i": text and image}[task]


@torch.no_grad()
def logprob_gaps(
    forward: Callable[..., Any],
    rollouts: Sequence[KeyedTrajectory],
    settings: ScoringSettings,
    device: torch.device,
    seed: int,
    batch_size: int,
) -> list[LogprobGap]:
    """Returns the differences at one random step of each rollout, under the weights that generated it.

    Args:
        forward: The model, or the engine that holds it.
        rollouts: Rollouts of a step.
        settings: Vocabularies and temperatures.
        device: Device of the model.
        seed: Seed of the run.
        batch_size: Number of rollouts that go through the model together.
    """
    gaps: list[Tensor] = []
    for batch in micro_batches(rollouts, batch_size):
        rows = [_row_at(number, rollout, _step(rollout, seed)) for number, rollout in enumerate(batch)]
        found = entry_log_probs(forward, rows, settings, device).cpu().split([row.num_scored for row in rows])
        gaps += [(f - r.commit_log_probs[row.is_scored]).abs() for f, r, row in zip(found, batch, rows, strict=True)]
    return [LogprobGap(total=g.sum().item(), largest=g.max().item(), num_tokens=len(g)) for g in gaps]


def _row_at(number: int, rollout: KeyedTrajectory, step: int) -> PassRow:
    """Returns the input of the sampler at a step, and the tokens that it fixed there.

    All tokens that it fixed at this step or later were masked. Padding that it never sampled was also masked, but only
    until its part of the response was finished: an image is generated after thoughts whose padding is end-of-text.
    """
    fixed, span = rollout.commit_step == step, spans_of(rollout)
    never = (rollout.commit_step < 0) & (span >= span[fixed].min())
    return PassRow(
        sample=number,
        view=0,
        token_ids=rollout.token_ids,
        is_masked=rollout.response_mask & ((rollout.commit_step >= step) | never),
        is_scored=fixed,
        image_mask=rollout.image_mask,
    )


def _step(rollout: KeyedTrajectory, seed: int) -> int:
    """Returns a step at which the rollout fixed a token."""
    steps = rollout.commit_step[rollout.commit_step >= 0].unique()
    key = rollout.key
    uniform = torch.rand(1, generator=keyed_generator(seed, key.step, key.sample_id, "parity"))
    return int(steps[int(uniform * len(steps))])
