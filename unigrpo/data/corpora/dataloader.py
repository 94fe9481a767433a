"""The samples that each rank reads in a step of pretraining or Mix-CoT, as a function of the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unigrpo.config import Fit
from unigrpo.config.corpora import SourceConfig
from unigrpo.config.denoising import MODALITIES, ModalityConfig, StageConfig
from unigrpo.data.corpora.order import rank_positions
from unigrpo.data.corpora.rows import RowEncoder
from unigrpo.data.corpora.sample import CorpusSample
from unigrpo.data.corpora.stream import CorpusStream, is_table
from unigrpo.data.images import square_bytes
from unigrpo.data.tables import without_hub


def with_local_tables(config: StageConfig) -> StageConfig:
    """Returns a config whose sources name folders in place of data sets of the Hub.

    The driver asks the Hub once, and the processes of all nodes read its cache (``HF_HOME``).

    Raises:
        ValueError: A data set is neither here nor on the Hub.
    """
    trained = {name: _with_local_sources(modality) for name, modality in config.modalities.items()}
    held_out = {name: _with_local_sources(getattr(config.validation, name)) for name in MODALITIES}
    return replace(config, **trained, validation=replace(config.validation, **held_out))


def _with_local_sources(modality: ModalityConfig) -> ModalityConfig:
    sources = {
        name: replace(source, path=without_hub(source.path)) if is_table(source) else source
        for name, source in modality.sources.items()
    }
    return replace(modality, sources=sources)


@dataclass(frozen=True, kw_only=True)
class LoadedSample:
    """One sample with its position and its pixels."""

    position: int
    sample: CorpusSample
    """The sample without its image, which is in `pixels`."""
    pixels: UInt8[Tensor, "3 R R"] | None
    """Pixels as 8-bit values; None for text."""


@dataclass(frozen=True)
class _Sent:
    """Samples on their way from a loader process, with all their pixels in one array.

    Tensors would be sent through /dev/shm, and each would need an open file. If /dev/shm is small, as in many
    containers, the loader process would lose the batch, and its reader would wait without end. Arrays are sent through
    a pipe.
    """

    samples: list[LoadedSample]
    pixels: UInt8[np.ndarray, "B 3 R R"] | None

    @classmethod
    def of(cls, samples: Sequence[LoadedSample]) -> _Sent:
        """Takes the pixels out of the samples."""
        pixels = [sample.pixels for sample in samples if sample.pixels is not None]
        if not pixels:
            return cls(list(samples), None)
        assert len(pixels) == len(samples), "a modality has images in all of its samples or in none"
        return cls([replace(sample, pixels=None) for sample in samples], torch.stack(pixels).numpy())

    def received(self) -> list[LoadedSample]:
        """Returns the samples with their pixels."""
        if self.pixels is None:
            return self.samples
        pixels = torch.from_numpy(self.pixels)
        return [replace(sample, pixels=p) for sample, p in zip(self.samples, pixels, strict=True)]


class CorpusLoader:
    """Reads samples of every modality by position."""

    def __init__(
        self,
        sources: Mapping[str, Mapping[str, SourceConfig]],
        seed: int,
        encoder: RowEncoder,
        resolution: int,
        fit: Fit,
    ) -> None:
        """Opens all sources.

        Args:
            sources: Sources by modality and name.
            seed: Seed of the order.
            encoder: Finds samples that do not fit.
            resolution: Height and width of images, in pixels.
            fit: How images become square, for sources without their own `fit`.

        Raises:
            ValueError: A source is missing, empty or lacks columns.
        """
        self.streams = {
            modality: CorpusStream({f"{modality}/{name}": s for name, s in found.items()}, seed, check=encoder.check)
            for modality, found in sources.items()
        }
        self._resolution = resolution
        self._fit: dict[str, Fit] = {
            f"{modality}/{name}": source.fit or fit
            for modality, found in sources.items()
            for name, source in found.items()
        }

    def read(self, modality: str, positions: Sequence[int]) -> list[LoadedSample]:
        """Returns the samples at these positions.

        Raises:
            ValueError: Too many samples of a source cannot be used.
        """
        samples = [(position, self.streams[modality].sample(position)) for position in positions]
        return [LoadedSample(position=p, sample=replace(s, image=None), pixels=self._pixels(s)) for p, s in samples]

    def check_sources(self) -> None:
        """Reads one sample of every source.

        Raises:
            ValueError: Too many samples of a source cannot be used, for example all of them.
        """
        for modality, stream in self.streams.items():
            self.read(modality, stream.first_positions())

    def _pixels(self, sample: CorpusSample) -> Tensor | None:
        if sample.image is None:
            return None
        return square_bytes(sample.image, self._resolution, self._fit[sample.source])


class StepDataset(Dataset["dict[str, _Sent] | ValueError"]):
    """The samples that one rank reads in each step, for a torch DataLoader.

    An error is returned as a value, because torch would hide its message in the traceback of the loader's process.
    """

    def __init__(self, reader: CorpusLoader, batch_sizes: Mapping[str, int], rank: int, world_size: int) -> None:
        self._reader = reader
        self._batch_sizes = dict(batch_sizes)
        self._rank, self._world_size = rank, world_size

    def __getitem__(self, step: int) -> dict[str, _Sent] | ValueError:
        try:
            return {
                name: _Sent.of(
                    self._reader.read(name, rank_positions(step * size, size, self._rank, self._world_size))
                )
                for name, size in self._batch_sizes.items()
            }
        except ValueError as error:
            return ValueError(str(error))

    def count(self, samples: Mapping[str, Sequence[LoadedSample]]) -> None:
        """Counts samples that other processes read.

        Raises:
            ValueError: Too many samples of a source cannot be used.
        """
        for name, batch in samples.items():
            for loaded in batch:
                skipped = loaded.sample.skipped
                self._reader.streams[name].add_counts(loaded.sample.source, 1 + len(skipped), skipped)


class StepLoader:
    """Loads what one rank reads in a step. Loader processes, if there are any, read later steps ahead."""

    def __init__(self, dataset: StepDataset, num_workers: int) -> None:
        self._dataset, self._num_workers = dataset, num_workers
        self._steps: Iterator[dict[str, _Sent] | ValueError] = iter(())
        self._next = -1

    def at(self, step: int) -> dict[str, list[LoadedSample]]:
        """Returns the samples of a step by modality. Any step may be requested, but the next step is the fastest.

        Raises:
            ValueError: Too many samples of a source cannot be used.
        """
        if step != self._next:
            self._steps = iter(
                DataLoader(
                    self._dataset,
                    batch_size=None,
                    sampler=_Steps(step),
                    num_workers=self._num_workers,
                    multiprocessing_context="spawn" if self._num_workers else None,
                )
            )
        self._next = step + 1
        sent = next(self._steps)
        if isinstance(sent, ValueError):
            raise sent
        samples = {name: batch.received() for name, batch in sent.items()}
        if self._num_workers:  # the loader processes counted for themselves
            self._dataset.count(samples)
        return samples


class _Steps(torch.utils.data.Sampler[int]):
    def __init__(self, first: int) -> None:
        self._first = first

    def __iter__(self) -> Iterator[int]:
        step = self._first
        while True:
            yield step
            step += 1
