"""Passes through the model: rows, each a masked view of a sample, packed by length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo.algorithm.likelihood.base import Views
from unigrpo.algorithm.masking import apply_mask
from unigrpo.config import RunConfig
from unigrpo.data.collate import pad_rows
from unigrpo.records import KeyedTrajectory
from unigrpo.training.scoring_settings import ScoringSettings


@dataclass(frozen=True, kw_only=True)
class PassRow:
    """One masked view of one sample, without padding."""

    sample: int
    """Place of the sample in the list that is scored."""
    view: int
    token_ids: Int[Tensor, " L"]
    is_masked: Bool[Tensor, " L"]
    is_scored: Bool[Tensor, " L"]
    image_mask: Bool[Tensor, " L"]

    @property
    def num_scored(self) -> int:
        """Tokens that the view scores."""
        return int(self.is_scored.sum())


def rows_of(rollouts: Sequence[KeyedTrajectory], views: Sequence[Views]) -> list[PassRow]:
    """The views that score something, sample by sample."""
    return [
        PassRow(
            sample=number,
            view=view,
            token_ids=rollout.token_ids,
            is_masked=drawn.is_masked[view],
            is_scored=drawn.weight[view] != 0,
            image_mask=rollout.image_mask,
        )
        for number, (rollout, drawn) in enumerate(zip(rollouts, views, strict=True))
        for view in range(drawn.num_views)
        if (drawn.weight[view] != 0).any()
    ]


def packed(rows: Sequence[PassRow], config: RunConfig) -> list[list[int]]:
    """Indices of the rows of each pass: rows of similar length, so that little is padded where tasks are mixed."""
    lengths = [len(row.token_ids) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: lengths[i])
    passes: list[list[int]] = []
    for i in order:
        room = config.train.micro_batch_tokens
        fits = passes and (
            (len(passes[-1]) + 1) * lengths[i] <= room if room else len(passes[-1]) < config.train.micro_batch_size
        )
        if fits:
            passes[-1].append(i)
        else:
            passes.append([i])
    return passes


def entry_log_probs(
    forward: Callable[..., Any], rows: Sequence[PassRow], settings: ScoringSettings, device: torch.device
) -> Float[Tensor, " n"]:
    """Log-probabilities of the scored tokens of some rows, row by row.

    The head is applied only to the positions that are scored.

    Args:
        forward: The model, or the engine that holds it.
        rows: At least one. They go through the model together.
        settings: Vocabularies and temperatures, as in sampling.
        device: Of the model.

    Returns:
        Nats, float32.
    """

    def padded(tensors: list[Tensor], fill: int | bool) -> Tensor:
        return pad_rows(tensors, fill).to(device)

    token_ids = padded([row.token_ids for row in rows], 0)
    token_mask = padded([torch.ones_like(row.is_masked) for row in rows], False)
    is_masked = padded([row.is_masked for row in rows], False)
    is_scored = padded([row.is_scored for row in rows], False)
    is_image = padded([row.image_mask for row in rows], False)[is_scored]
    return forward(
        apply_mask(token_ids, is_masked, settings.mask_id),
        attention_mask=None if token_mask.all() else token_mask,
        positions=is_scored,
        targets=token_ids[is_scored],
        **settings.of(is_image),
    ).log_probs


def idle_row(settings: ScoringSettings) -> PassRow:
    """A row of one masked token, for a pass that a rank makes only because other ranks make one."""
    one = torch.ones(1, dtype=torch.bool)
    return PassRow(
        sample=-1,
        view=0,
        token_ids=torch.full((1,), settings.mask_id),
        is_masked=one,
        is_scored=one,
        image_mask=torch.zeros_like(one),
    )
