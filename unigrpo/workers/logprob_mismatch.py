"""Comparison of the sampler's log-probabilities with those of the training path, at the step at which tokens were
fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unigrpo.config import RunConfig
from unigrpo.data.collate import ScoringBatch, pad_rows
from unigrpo.records import MaskPlan, Rollout, SequenceMasks
from unigrpo.rng import keyed_generator
from unigrpo.training.scoring import ScoringSettings, log_likelihood


@dataclass(frozen=True, kw_only=True)
class LogprobGap:
    """Difference between the log-probabilities that the sampler recorded and those of the training path, at one
    step."""

    total: float
    """Sum of absolute differences, nats."""
    largest: float
    num_tokens: int


def is_comparable(config: RunConfig, task: str) -> bool:
    """Whether the sampler's probabilities are those of the model: not those of guidance or of a truncated
    vocabulary."""
    text, image = config.rollout.text, config.rollout.image
    plain_text = text.guidance_scale == 0 and text.top_p == 1
    return {
        "text": plain_text,
        "mmu": plain_text,
        "t2i": image.guidance_scale == 0,
        "r2i": plain_text and image.guidance_scale == 0,
    }[task]


def is_exact(config: RunConfig, task: str) -> bool:
    """Whether the sampler computes exactly what the model does; with a cache it computes an approximation."""
    text, image = config.rollout.text.cache == "none", config.rollout.image.cache == "none"
    return {"text": text, "mmu": text, "t2i": image, "r2i": text and image}[task]


@torch.no_grad()
def parity_gaps(
    forward: Callable[..., Any],
    rollouts: Sequence[Rollout],
    settings: ScoringSettings,
    device: torch.device,
    seed: int,
) -> list[LogprobGap]:
    """Returns the differences at one random step of each rollout, under the weights that generated it.

    The input of a step is the row in which every token is masked that was fixed at this step or later, or never.
    """
    steps = [_step(rollout, seed) for rollout in rollouts]
    committed = [rollout.commit_step == step for rollout, step in zip(rollouts, steps, strict=True)]
    hidden = [
        r.response_mask & ((r.commit_step >= step) | (r.commit_step < 0))
        for r, step in zip(rollouts, steps, strict=True)
    ]

    def rows(tensors: list[Tensor], fill: float | bool) -> Tensor:
        return pad_rows(tensors, fill).to(device)

    response = rows([r.response_mask for r in rollouts], False)
    batch = ScoringBatch(
        token_ids=rows([r.token_ids for r in rollouts], 0),
        masks=SequenceMasks(
            token_mask=rows([torch.ones_like(r.response_mask) for r in rollouts], False),
            response_mask=response,
            scored_mask=response,
        ),
        plan=MaskPlan(is_masked=rows(hidden, False)[None], weight=rows([c.float() for c in committed], 0.0)[None]),
        image_mask=rows([r.image_mask for r in rollouts], False),
    )
    again = log_likelihood(forward, batch, settings).cpu()
    gaps = [
        (again[i, : len(c)] - r.commit_log_probs)[c].abs()
        for i, (r, c) in enumerate(zip(rollouts, committed, strict=True))
    ]
    return [LogprobGap(total=g.sum().item(), largest=g.max().item(), num_tokens=len(g)) for g in gaps]


def _step(rollout: Rollout, seed: int) -> int:
    """Returns a step at which the rollout fixed a token."""
    steps = rollout.commit_step[rollout.commit_step >= 0].unique()
    request = rollout.request
    draw = torch.rand(1, generator=keyed_generator(seed, request.step, request.sample_id, "parity"))
    return int(steps[int(draw * len(steps))])
