"""The loader of steps: any step may be asked for, and steps in order come from one pass."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import cast

import numpy as np
import pytest
import torch

from unigrpo.data.corpora.sample import CorpusSample
from unigrpo.data.stage_rows import CorpusLoader, LoadedSample, StepDataset, StepLoader


class Positions:
    """A corpus whose samples are their positions."""

    __class__ = CorpusLoader  # type: ignore[assignment]

    def __init__(self) -> None:
        self.reads: list[int] = []

    def read(self, modality: str, positions: Sequence[int]) -> list[LoadedSample]:
        if 96 in positions:
            raise ValueError("source lm/text: too many samples cannot be used")
        self.reads += positions
        return [
            LoadedSample(position=p, sample=CorpusSample(key=str(p), task="lm", text=str(p)), pixels=None)
            for p in positions
        ]


def loader(corpus: Positions, rank: int = 0) -> StepLoader:
    return StepLoader(StepDataset(cast(CorpusLoader, corpus), {"lm": 4}, rank, 2), num_workers=0)


def positions(samples: dict[str, list[LoadedSample]]) -> list[int]:
    return [sample.position for sample in samples["lm"]]


def test_a_step_has_the_same_samples_in_whatever_order_steps_are_asked_for():
    corpus = Positions()
    steps = loader(corpus)
    in_order = [positions(steps.at(step)) for step in range(4)]
    assert len(corpus.reads) == 8, "every sample is read once"
    other = loader(Positions())
    assert [positions(other.at(step)) for step in (3, 1, 1, 2, 0)] == [in_order[step] for step in (3, 1, 1, 2, 0)]


def test_the_ranks_share_the_samples_of_a_step():
    shares = [positions(loader(Positions(), rank).at(5)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == [20, 21, 22, 23]


def test_a_source_that_cannot_be_used_is_an_error_of_its_step_alone():
    steps = loader(Positions())
    with pytest.raises(ValueError, match="source lm/text: too many"):
        [positions(steps.at(step)) for step in (23, 24)]
    assert positions(steps.at(25))


class Images(Positions):
    """A corpus of images whose pixels all have the value of their position."""

    def read(self, modality: str, positions: Sequence[int]) -> list[LoadedSample]:
        return [
            replace(sample, pixels=torch.full((3, 2, 2), sample.position, dtype=torch.uint8))
            for sample in super().read(modality, positions)
        ]


def test_the_pixels_of_a_step_travel_as_one_array_of_bytes():
    dataset = StepDataset(cast(CorpusLoader, Images()), {"t2i": 4, "mmu": 2}, rank=0, world_size=1)
    sent = dataset[3]
    assert not isinstance(sent, ValueError)
    for name, number in (("t2i", 4), ("mmu", 2)):
        pixels = sent[name].pixels
        assert pixels is not None
        assert (pixels.shape, pixels.dtype) == ((number, 3, 2, 2), np.uint8)
        assert all(sample.pixels is None for sample in sent[name].samples)
    for batch in StepLoader(dataset, num_workers=0).at(3).values():
        assert [sample.pixels is not None and sample.pixels.unique().tolist() for sample in batch] == [
            [sample.position] for sample in batch
        ]


def test_nothing_of_a_step_travels_in_shared_memory(monkeypatch):
    """Containers often have 64 MB of it, and a loader process that finds no room keeps its reader waiting."""
    sent = StepDataset(cast(CorpusLoader, Images()), {"t2i": 4}, rank=0, world_size=1)[3]
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", lambda *_: pytest.fail("it takes shared memory"))
    received = pickle.loads(ForkingPickler.dumps(sent))
    assert [int(sample.pixels.unique()) for sample in received["t2i"].received()] == [12, 13, 14, 15]
