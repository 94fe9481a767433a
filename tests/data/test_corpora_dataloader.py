"""Tests the loader of steps, which returns any step, and reads steps in order in one pass."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest
import torch
from PIL import Image

from unigrpo.config import Fit
from unigrpo.config.corpora import CaptionConfig, SourceConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.dataloader import CorpusLoader, LoadedSample, StepDataset, StepLoader
from unigrpo.data.corpora.rows import RowEncoder
from unigrpo.data.corpora.sample import CorpusSample


class Positions:
    """A corpus whose samples are its positions."""

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


def test_a_step_has_the_same_samples_in_any_order_of_steps():
    corpus = Positions()
    steps = loader(corpus)
    in_order = [positions(steps.at(step)) for step in range(4)]
    assert len(corpus.reads) == 8, "a sample is read again"
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


def test_the_pixels_of_a_step_are_sent_as_one_array_of_bytes():
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


def test_no_part_of_a_step_is_sent_in_shared_memory(monkeypatch):
    """Containers often have only 64 MB of it, and a loader process without shared memory would not answer."""
    sent = StepDataset(cast(CorpusLoader, Images()), {"t2i": 4}, rank=0, world_size=1)[3]
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", lambda *_: pytest.fail("it uses shared memory"))
    received = pickle.loads(ForkingPickler.dumps(sent))
    assert [int(sample.pixels.unique()) for sample in received["t2i"].received()] == [12, 13, 14, 15]


class NoLongTexts:
    """A check of samples without a tokenizer."""

    __class__ = RowEncoder  # type: ignore[assignment]

    def check(self, sample: CorpusSample) -> None:
        if "long" in sample.text:
            raise BadSample("too long", f"{sample.key}: too long")


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusLoader:
    """Returns three documents, one of which is too long, and two folders with one wide image each.

    The images have 2 red, 4 green and 2 blue columns.
    """
    image = Image.new("RGB", (8, 4), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, 2, 4))
    image.paste((0, 0, 255), (6, 0, 8, 4))
    images = {}
    fits: dict[str, Fit | Literal[""]] = {"cropped": "", "stretched": "stretch"}
    for name, fit in fits.items():
        (tmp_path / name / "dog").mkdir(parents=True)
        image.save(tmp_path / name / "dog" / "a.png")
        captions = CaptionConfig(store="class_name")
        images[name] = SourceConfig(
            kind="image_folder", task="t2i", path=str(tmp_path / name), captions=captions, fit=fit
        )
    lines = [json.dumps({"text": text}) + "\n" for text in ("a", "a long one", "b")]
    (tmp_path / "text.jsonl").write_text("".join(lines))
    text = SourceConfig(kind="text", task="lm", path=str(tmp_path / "text.jsonl"), max_bad_fraction=0.4)
    sources = {"t2i": images, "lm": {"text": text}}
    return CorpusLoader(sources, seed=1, encoder=cast(RowEncoder, NoLongTexts()), resolution=4, fit="crop")


def test_the_images_of_each_source_become_square_as_the_source_or_the_run_says(corpus: CorpusLoader) -> None:
    pixels = {}
    for loaded in corpus.read("t2i", range(16)):
        assert loaded.sample.image is None, "pixels are sent separately"
        assert loaded.sample.text == "dog"
        assert loaded.pixels is not None
        pixels[loaded.sample.source] = loaded.pixels
    green = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)
    assert torch.equal(pixels["t2i/cropped"], green), "the four columns in the middle"
    red, blue = pixels["t2i/stretched"][0], pixels["t2i/stretched"][2]
    assert red[:, 0].min() > red[:, 3].max()
    assert blue[:, 3].min() > blue[:, 0].max()


def test_samples_of_text_have_no_pixels_and_those_that_do_not_fit_are_replaced(corpus: CorpusLoader) -> None:
    found = corpus.read("lm", range(9))
    assert [loaded.position for loaded in found] == list(range(9))
    assert {loaded.sample.text for loaded in found} == {"a", "b"}
    assert all(loaded.pixels is None for loaded in found)


def test_what_loader_processes_read_is_counted_as_if_this_process_had_read_it(corpus: CorpusLoader) -> None:
    here = StepDataset(corpus, {"t2i": 4, "lm": 3}, rank=0, world_size=1)
    steps = StepLoader(here, num_workers=0)
    samples = [steps.at(step) for step in range(3)]
    expected = {name: (dict(s.seen), dict(s.counts)) for name, s in corpus.streams.items()}
    assert expected["lm"][1] == {("lm/text", "too long"): 3}, "once in each of three epochs"
    for stream in corpus.streams.values():
        stream.seen.clear()
        stream.counts.clear()
    for batch in samples:
        here.count(batch)
    assert {name: (dict(s.seen), dict(s.counts)) for name, s in corpus.streams.items()} == expected


def test_a_source_without_a_usable_sample_is_found_before_the_run(corpus: CorpusLoader, tmp_path: Path) -> None:
    corpus.check_sources()
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "a long one"}) + "\n")
    lm = {"text": SourceConfig(kind="text", task="lm", path=str(tmp_path / "text.jsonl"))}
    broken = CorpusLoader({"lm": lm}, seed=1, encoder=cast(RowEncoder, NoLongTexts()), resolution=4, fit="crop")
    with pytest.raises(ValueError, match=r"source lm/text: 1 of 1 samples cannot be used \(too long 1\)"):
        broken.check_sources()
