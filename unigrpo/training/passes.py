"""Passes through the model: rows, each a masked view of a sample, packed by length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, takewhile
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unigrpo.algorithm.likelihood.base import Views
from unigrpo.algorithm.masking import apply_mask
from unigrpo.config import RunConfig
from unigrpo.records import KeyedTrajectory
from unigrpo.training.scoring_settings import ScoringSettings

PADDED_FRACTION = 0.1
"""Additional cost of a pass with padding, as a fraction: its mask of pairs of tokens needs a slower attention
kernel."""


@dataclass(frozen=True, kw_only=True)
class PassRow:
    """One masked view of one sample, without padding."""

    sample: int
    """Index of the sample in the list that is scored."""
    view: int
    token_ids: Int[Tensor, " L"]
    is_masked: Bool[Tensor, " L"]
    is_scored: Bool[Tensor, " L"]
    image_mask: Bool[Tensor, " L"]

    @cached_property
    def num_scored(self) -> int:
        """Tokens that the view scores."""
        return int(self.is_scored.sum())

    @cached_property
    def scores_codes(self) -> bool:
        """Whether the view scores image codes."""
        return bool((self.is_scored & self.image_mask).any())


def rows_of(rollouts: Sequence[KeyedTrajectory], views: Sequence[Views]) -> list[PassRow]:
    """Returns the views that score some token, sample by sample."""
    return [
        PassRow(
            sample=number,
            view=view,
            token_ids=rollout.token_ids,
            is_masked=own.is_masked[view],
            is_scored=own.weight[view] != 0,
            image_mask=rollout.image_mask,
        )
        for number, (rollout, own) in enumerate(zip(rollouts, views, strict=True))
        for view in range(own.num_views)
        if (own.weight[view] != 0).any()
    ]


def packed(rows: Sequence[PassRow], config: RunConfig) -> list[list[int]]:
    """Returns the indices of the rows of each pass: the smallest number of passes, with the least padding.

    Rows of similar length share a pass. A pass ends where the length changes, for example between the groups of two
    prompts, if that needs no additional pass. A view that is scored with guidance counts as two rows.
    """
    copies = [2 if config.scores_guided and row.scores_codes else 1 for row in rows]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].token_ids))
    lengths = [len(rows[i].token_ids) for i in order]
    counts = [0, *accumulate(copies[i] for i in order)]
    tokens = [0, *accumulate(copies[i] * len(rows[i].token_ids) for i in order)]

    def fits(start: int, end: int) -> bool:
        number, room = counts[end] - counts[start], config.train.micro_batch_tokens
        return number * lengths[end - 1] <= room if room else number <= config.train.micro_batch_size

    def cost(start: int, end: int) -> float:
        computed = lengths[end - 1] * (counts[end] - counts[start])
        padding = computed - (tokens[end] - tokens[start])
        return padding + PADDED_FRACTION * computed if padding else 0.0

    ends: list[int] = []
    for start in range(len(rows)):
        end = max(start + 1, ends[-1] if ends else 0)
        while end < len(rows) and fits(start, end + 1):
            end += 1
        ends.append(end)
    # For the rows from each one on: the number of passes, their cost, and the end of the first.
    fewest, least, cuts = [0] * (len(rows) + 1), [0.0] * (len(rows) + 1), [0] * len(rows)
    for start in reversed(range(len(rows))):
        end = ends[start]
        fewest[start] = 1 + fewest[end]
        as_few = takewhile(lambda i, most=fewest[end]: fewest[i] == most, range(end, start, -1))
        choices = [i for i in as_few if i == end or lengths[i - 1] != lengths[i]]
        least[start], _, cuts[start] = min((cost(start, i) + least[i], -i, i) for i in choices)
    passes: list[list[int]] = []
    start = 0
    while start < len(rows):
        passes.append(order[start : cuts[start]])
        start = cuts[start]
    return passes


def entry_log_probs(
    forward: Callable[..., Any], rows: Sequence[PassRow], settings: ScoringSettings, device: torch.device
) -> Float[Tensor, " n"]:
    """Returns the log-probabilities of the scored tokens of some rows, row by row.

    The head is applied only to the positions that are scored.

    Args:
        forward: The model, or the engine that holds it.
        rows: At least one row. They go through the model together.
        settings: Vocabularies and temperatures, as in sampling.
        device: Device of the model.

    Returns:
        Log-probabilities in nats, float32.
    """
    xt, arguments = _arguments(rows, settings, device)
    return forward(xt, **arguments).log_probs


def entry_scores(
    forward: Callable[..., Any],
    rows: Sequence[PassRow],
    settings: ScoringSettings,
    device: torch.device,
    as_base: Callable[[], AbstractContextManager[Any]],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Returns the same, and the KL divergence of each scored token's distribution to that of a base model.

    Only hidden states of the base are kept, so that the distributions exist for a few rows at a time.

    Args:
        forward: As in :func:`entry_log_probs`, like the next three.
        rows: Rows that go through the model together.
        settings: Vocabularies and temperatures.
        device: Device of the model.
        as_base: A context in which ``forward`` is that of the base, which has the same head.

    Returns:
        Log-probabilities and KL(policy || base), nats, float32.
    """
    xt, arguments = _arguments(rows, settings, device)
    with torch.no_grad(), as_base():
        base = forward(xt, **arguments, without_head=True).hidden
    found = forward(xt, **arguments, base=base)
    return found.log_probs, found.exact_kl


def _arguments(
    rows: Sequence[PassRow], settings: ScoringSettings, device: torch.device
) -> tuple[Tensor, dict[str, Any]]:
    """Masked tokens and other arguments of the forward pass that scores some rows."""

    def padded(tensors: list[Tensor]) -> Tensor:
        return pad_sequence(tensors, batch_first=True).to(device)

    guides = [_guide_row(row, settings) for row in rows if settings.guidance_scale > 0 and row.scores_codes]
    num_scored = sum(row.num_scored for row in rows)
    rows = [*rows, *guides]
    token_ids = padded([row.token_ids for row in rows])
    token_mask = padded([torch.ones_like(row.is_masked) for row in rows])
    is_masked = padded([row.is_masked for row in rows])
    is_scored = padded([row.is_scored for row in rows])
    is_image = padded([row.image_mask for row in rows])[is_scored][:num_scored]
    guidance = {"is_guided": is_image, "guidance_scale": settings.guidance_scale} if guides else {}
    return apply_mask(token_ids, is_masked, settings.mask_id), {
        "attention_mask": None if token_mask.all() else token_mask,
        "positions": is_scored,
        "targets": token_ids[is_scored][:num_scored],
        **settings.of(is_image),
        **guidance,
    }


def _guide_row(row: PassRow, settings: ScoringSettings) -> PassRow:
    """Returns the same codes after the unconditional prompt, as in the sampler of guided images."""
    assert settings.unconditional is not None, "guidance needs an unconditional prompt"
    first = int(row.image_mask.nonzero()[0])
    prompt = settings.unconditional
    nothing = torch.zeros_like(prompt, dtype=torch.bool)
    return PassRow(
        sample=row.sample,
        view=row.view,
        token_ids=torch.cat([prompt, row.token_ids[first:]]),
        is_masked=torch.cat([nothing, row.is_masked[first:]]),
        is_scored=torch.cat([nothing, (row.is_scored & row.image_mask)[first:]]),
        image_mask=torch.cat([nothing, row.image_mask[first:]]),
    )


def idle_row(settings: ScoringSettings) -> PassRow:
    """Returns a row of one masked token, for a pass that a rank makes only because other ranks make one."""
    one = torch.ones(1, dtype=torch.bool)
    return PassRow(
        sample=-1,
        view=0,
        token_ids=torch.full((1,), settings.mask_id),
        is_masked=one,
        is_scored=one,
        image_mask=torch.zeros_like(one),
    )
