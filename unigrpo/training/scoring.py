"""Log-probabilities of finished responses without gradient, for policy, old policy and reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo.config import RunConfig
from unigrpo.records import KeyedTrajectory
from unigrpo.training.passes import PassRow, entry_log_probs, idle_row, packed, rows_of
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.training.views import ViewSampler


@runtime_checkable
class Scorer(Protocol):
    """A model behind a forward pass, on a device."""

    forward: Callable[..., Any]
    device: torch.device

    def max_over_ranks(self, number: int, /) -> int:
        """The largest number of all ranks that must make equally many passes; of this rank if each is on its own."""
        ...


@torch.no_grad()
def score(
    scorer: Scorer,
    config: RunConfig,
    settings: ScoringSettings,
    rollouts: Sequence[KeyedTrajectory],
    updates: Iterable[int] | None = None,
) -> list[tuple[Float[Tensor, " _"], ...]]:
    """Returns the log-probabilities of each rollout in the views of some inner updates.

    The passes are those of the inner updates, so that equal weights give equal numbers.

    Args:
        scorer: The model.
        config: The run.
        settings: Vocabularies and temperatures.
        rollouts: The rollouts to score.
        updates: Inner updates; None scores all.

    Returns:
        For each rollout and inner update, the log-probabilities in nats of the tokens that its views score, view by
        view; empty for an inner update that was not requested.
    """
    sampler = ViewSampler(config)
    wanted = set(range(config.train.num_inner_updates) if updates is None else updates)
    results: list[list[Tensor]] = [[] for _ in rollouts]
    for k in range(config.train.num_inner_updates):
        if k not in wanted:
            for result in results:
                result.append(torch.zeros(0))
            continue
        rows = rows_of(rollouts, [sampler.views(rollout, k) for rollout in rollouts])
        for result, log_probs in zip(results, _scored(scorer, config, settings, rows, len(rollouts)), strict=True):
            result.append(log_probs)
    return [tuple(result) for result in results]


def _scored(
    scorer: Scorer, config: RunConfig, settings: ScoringSettings, rows: Sequence[PassRow], num_samples: int
) -> list[Tensor]:
    """Log-probabilities of the scored tokens of each sample, row by row."""
    passes = packed(rows, config)
    found: dict[int, Tensor] = {}
    for number in range(scorer.max_over_ranks(len(passes))):
        own = passes[number] if number < len(passes) else []
        batch = [rows[i] for i in own] or [idle_row(settings)]
        log_probs = entry_log_probs(scorer.forward, batch, settings, scorer.device).cpu()
        found |= dict(zip(own, log_probs.split([row.num_scored for row in batch]), strict=False))
    results: list[list[Tensor]] = [[torch.zeros(0)] for _ in range(num_samples)]
    for i, row in enumerate(rows):
        results[row.sample].append(found[i])
    return [torch.cat(result) for result in results]
