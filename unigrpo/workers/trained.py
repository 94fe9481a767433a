"""Methods of every worker of a trained model: save, load, export, and counting of arithmetic."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from unigrpo.config import LoRAConfig
from unigrpo.models.checkpoint_io import save_tokenizer_and_config
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.sampling_defaults import SamplingDefaults
from unigrpo.training.optimizer_step import Engine
from unigrpo.workers.flop_meter import FlopMeter


class TrainedWorker:
    """One rank of a model that is trained. All ranks call each method together."""

    def __init__(
        self,
        engine: Engine,
        lora: LoRAConfig,
        tokenizer: PreTrainedTokenizerBase,
        image_tokenizer: ImageTokenizer | None,
        sampling: SamplingDefaults,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._image_tokenizer = image_tokenizer
        self._sampling = sampling
        self.meter = FlopMeter(engine.model, lora)

    @property
    def device(self) -> torch.device:
        """Device of this rank."""
        return self._engine.device

    def save(self, folder: Path) -> None:
        """Writes everything that :meth:`load` needs to resume exactly."""
        self._engine.save(folder / "policy")

    def load(self, folder: Path) -> None:
        """Restores what :meth:`save` wrote."""
        self._engine.load(folder / "policy")

    def export(self, folder: Path) -> None:
        """Writes the model as a Hugging Face folder with tokenizer, image tokenizer and sampling settings."""
        self._engine.export(folder)
        if self._engine.rank == 0:
            save_tokenizer_and_config(self._engine.model.config, self._tokenizer, folder)
            self._sampling.write(folder)
            if self._image_tokenizer is not None:
                self._image_tokenizer.save_pretrained(folder / "image_tokenizer")
        self._engine.barrier()
