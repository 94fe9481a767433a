"""The reference, which only scores. Its weights may be updated from those of the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from unigrpo import CheckpointError
from unigrpo.batches import LogProbs, TrajectoryBatch
from unigrpo.config import RunConfig
from unigrpo.models.checkpoint_io import save_weights
from unigrpo.training.scoring import ScoringSettings, score
from unigrpo.workers.flop_meter import FlopMeter

FOLDER = "reference"
"""Name of the reference's folder inside a checkpoint."""


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
        *,
        model: PreTrainedModel | None = None,
        whole: Callable[[Shaped[Tensor, "*_"]], AbstractContextManager[Any]] = nullcontext,
        is_first: bool = True,
    ) -> None:
        """Holds the frozen model of one rank.

        Args:
            config: The run.
            forward: The model.
            device: Device of the model.
            settings: Vocabularies and temperatures.
            meter: Counts the arithmetic.
            max_over_ranks: The largest number of all ranks that must make equally many passes.
            model: The model whose weights can be moved; None: ``forward`` itself.
            whole: A context in which a weight is whole; after it all ranks have what the first one wrote into it.
            is_first: Whether this is the first rank.
        """
        self.max_over_ranks = max_over_ranks
        self.meter = meter
        self.forward = forward
        self.device = device
        self._config = config
        self._settings = settings
        self._model: Any = forward if model is None else model
        self._whole, self._is_first = whole, is_first
        self._averages: dict[str, Tensor] = {}
        """Weights of the moving average, float32 on the CPU; empty without one. In bfloat16, small changes would be
        lost."""

    def log_likelihood(self, batch: TrajectoryBatch) -> LogProbs:
        """Returns the log-probabilities of :func:`~unigrpo.training.scoring.score`."""
        return LogProbs.of(score(self, self._config, self._settings, batch.samples()))

    def move_to(self, folder: Path) -> None:
        """Updates the weights from those of a folder, by ``algo.reference.ema``; all ranks call it."""
        keep = self._config.algo.reference.ema
        if keep == 0:
            self._write(folder)
            return
        found = dict(_weights_in(folder))
        for name, parameter in self._model.named_parameters():
            with self._whole(parameter), torch.no_grad():
                before = self._averages.get(name)
                before = parameter.detach().float().cpu() if before is None else before
                self._averages[name] = keep * before + (1 - keep) * found[name].float()
                parameter.copy_(self._averages[name])

    def save(self, folder: Path) -> None:
        """Writes the weights into a checkpoint if they can differ from those of the first reference; all ranks call
        it."""
        if self._config.algo.reference.reset_steps == 0:
            return
        weights = dict(self._averages)
        if not weights:
            for name, parameter in self._model.named_parameters():
                with self._whole(parameter):
                    weights[name] = parameter.detach().cpu().clone()
        if self._is_first:
            save_weights(self._model, weights, folder / FOLDER)

    def load(self, folder: Path) -> None:
        """Restores what :meth:`save` wrote; all ranks call it.

        Raises:
            CheckpointError: The checkpoint is of a run that did not update its reference.
        """
        if self._config.algo.reference.reset_steps == 0:
            return
        if not (folder / FOLDER).is_dir():
            raise CheckpointError(
                f"{folder}: no weights of the reference, because the run that wrote it did not update its reference; "
                "set algo.reference.reset_steps 0, or start a new run"
            )
        self._write(folder / FOLDER)
        if self._config.algo.reference.ema > 0:
            self._averages = {name: weight.float() for name, weight in _weights_in(folder / FOLDER)}

    def _write(self, folder: Path) -> None:
        """Takes the weights of a folder."""
        found = dict(_weights_in(folder))
        for name, parameter in self._model.named_parameters():
            with self._whole(parameter), torch.no_grad():
                parameter.copy_(found[name])


def _weights_in(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Returns the weights of a Hugging Face folder, on the CPU."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # it is no mapping
                yield name, weights.get_tensor(name)
