"""The frozen reference, which only scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from unigrpo.batches import LogProbs, TrajectoryBatch
from unigrpo.config import RunConfig
from unigrpo.training.scoring import ScoringSettings, score
from unigrpo.workers.stats import FlopMeter


class ReferenceWorker:
    """One rank of the reference."""

    def __init__(
        self,
        config: RunConfig,
        forward: Callable[..., Any],
        device: torch.device,
        settings: ScoringSettings,
        meter: FlopMeter | None = None,
        max_over_ranks: Callable[[int], int] = int,
    ) -> None:
        """Args:
        config: The run.
        forward: The model.
        device: Of the model.
        settings: Vocabularies and temperatures.
        meter: Counts the arithmetic.
        max_over_ranks: The largest number of all ranks that must make equally many passes.
        """
        self.max_over_ranks = max_over_ranks
        self.meter = meter
        self.forward = forward
        self.device = device
        self._config = config
        self._settings = settings

    def log_likelihood(self, batch: TrajectoryBatch) -> LogProbs:
        """Returns the log-probabilities of :func:`~unigrpo.training.scoring.score`."""
        return LogProbs.of(score(self, self._config, self._settings, batch.samples()))
