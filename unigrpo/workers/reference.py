"""The frozen reference, which only scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unigrpo.config import RunConfig
from unigrpo.records import TrainSample
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
    ) -> None:
        self.meter = meter
        self.forward = forward
        self.device = device
        self._config = config
        self._settings = settings

    def log_likelihood(self, samples: Sequence[TrainSample]) -> list[Tensor]:
        """Returns log-probabilities (K, L) of each sample under its K mask plans."""
        return score(self, self._config, self._settings, samples)
