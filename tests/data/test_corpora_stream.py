"""Tests the stream of samples: order, resuming, ranks, loader processes, and the limit of broken samples."""

import dataclasses
import json
import logging
import pickle

import pytest
from torch.utils.data import DataLoader

from unigrpo.config.corpora import CaptionConfig, SourceConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.corpora.order import rank_positions
from unigrpo.data.corpora.stream import CorpusStream


def write(path, texts):
    path.write_text("".join((json.dumps({"text": text}) if text else "broken") + "\n" for text in texts))
    return SourceConfig(kind="text", task="lm", path=str(path), max_bad_fraction=0.1)


@pytest.fixture
def sources(tmp_path):
    """Returns a source of forty documents, three of which are broken, and a source of ten."""
    many = write(tmp_path / "many.jsonl", [f"many {n}" if n not in (3, 7, 20) else "" for n in range(40)])
    few = write(tmp_path / "few.jsonl", [f"few {n}" for n in range(10)])
    return {"many": many, "few": few}


def texts(stream, positions):
    return [stream.sample(position).text for position in positions]


def test_the_order_depends_on_the_seed_alone(sources):
    whole = texts(CorpusStream(sources, 1), range(100))
    assert whole == texts(CorpusStream(sources, 1), range(100))
    assert whole != texts(CorpusStream(sources, 2), range(100))


def test_a_stream_resumes_within_an_epoch(sources):
    whole = texts(CorpusStream(sources, 1), range(100))
    assert texts(CorpusStream(sources, 1), range(37, 100)) == whole[37:]


def test_two_ranks_have_disjoint_positions_and_together_those_of_one_rank(sources):
    whole = texts(CorpusStream(sources, 1), range(64))
    ranks = [list(rank_positions(0, 64, rank, 2)) for rank in range(2)]
    assert not set(ranks[0]) & set(ranks[1])
    parts = [texts(CorpusStream(sources, 1), positions) for positions in ranks]
    assert [text for pair in zip(*parts, strict=True) for text in pair] == whole


def test_an_epoch_shows_every_sample_once(sources):
    stream = CorpusStream({"few": sources["few"]}, 1)
    for epoch in range(3):
        assert sorted(texts(stream, range(epoch * 10, epoch * 10 + 10))) == [f"few {n}" for n in range(10)]


def test_a_stream_can_be_sent_to_loader_processes(sources, tmp_path):
    (tmp_path / "captions.json").write_text("{}")
    stream = pickle.loads(pickle.dumps(CorpusStream(sources, 1)))
    positions = list(range(20))
    loader = DataLoader(stream, batch_size=None, sampler=positions, num_workers=2, multiprocessing_context="fork")
    found = list(loader)
    assert [sample.text for sample in found] == texts(stream, positions)
    assert any(sample.skipped for sample in found)


def test_sources_with_captions_in_other_files_can_also_be_sent(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    (tmp_path / "captions.json").write_text("{}")
    config = SourceConfig(
        kind="image_folder", task="t2i", path=str(tmp_path / "images"),
        captions=CaptionConfig(store="json", path=str(tmp_path / "captions.json")),
    )  # fmt: skip
    assert pickle.loads(pickle.dumps(CorpusStream({"a": config}, 1))).sizes == {"a": 1}


def test_broken_samples_are_replaced_counted_and_logged(sources, caplog):
    stream = CorpusStream({"many": sources["many"]}, 1)
    with caplog.at_level(logging.WARNING):
        samples = [stream.sample(position) for position in range(40)]
    assert all(sample.text.startswith("many") and sample.source == "many" for sample in samples)
    num_skipped = sum(len(sample.skipped) for sample in samples)
    assert num_skipped >= 3
    assert stream.counts == {("many", "no JSON"): num_skipped}
    assert stream.seen == {"many": 40 + num_skipped}
    assert all(f"many.jsonl:{line}" in caplog.text for line in (4, 8, 21))


def test_a_replacement_depends_on_the_position_alone(sources):
    stream = CorpusStream({"many": sources["many"]}, 1)
    replaced = [position for position in range(40) if stream.sample(position).skipped]
    alone = CorpusStream({"many": sources["many"]}, 1)
    assert alone.sample(replaced[-1]) == stream.sample(replaced[-1])


def test_too_many_broken_samples_are_an_error(tmp_path):
    source = write(tmp_path / "a.jsonl", [f"text {n}" if n % 2 else "" for n in range(2000)])
    stream = CorpusStream({"a": dataclasses.replace(source, max_bad_fraction=0.01)}, 1)
    with pytest.raises(ValueError, match=r"source a: 11 of \d+ samples cannot be used \(no JSON 11\).* 0\.01 allows"):
        texts(stream, range(100))


@pytest.mark.parametrize(("num_broken", "is_error"), [(2, False), (3, True)])
def test_broken_samples_of_a_small_source_are_counted_over_each_epoch(tmp_path, num_broken, is_error):
    source = write(tmp_path / "a.jsonl", ["" if n < num_broken else f"text {n}" for n in range(200)])
    stream = CorpusStream({"a": dataclasses.replace(source, max_bad_fraction=0.01)}, 1)
    if is_error:
        with pytest.raises(ValueError, match="source a: 3 of 200 samples cannot be used"):
            texts(stream, range(200))
    else:
        texts(stream, range(2000))
        assert stream.counts["a", "no JSON"] >= 2 * 10


def test_the_limit_can_be_raised_and_be_zero(tmp_path):
    lines = [f"text {n}" if n % 2 else "" for n in range(100)]
    source = write(tmp_path / "a.jsonl", lines)
    assert len(texts(CorpusStream({"a": dataclasses.replace(source, max_bad_fraction=0.6)}, 1), range(500))) == 500
    with pytest.raises(ValueError, match="source a: 1 of"):
        texts(CorpusStream({"a": dataclasses.replace(source, max_bad_fraction=0.0)}, 1), range(10))


def test_a_source_whose_samples_are_all_filtered_out_is_an_error(sources):
    def refuse(sample):
        raise BadSample("text too long", f"{sample.key}: too long")

    with pytest.raises(ValueError, match=r"source few: 2 of 10 .*text too long 2"):
        CorpusStream({"few": sources["few"]}, 1, check=refuse).sample(0)


def test_counts_of_other_processes_are_added_and_limited(sources):
    stream = CorpusStream(sources, 1)
    stream.add_counts("few", 6, [("no JSON", 3)] * 5)
    assert (stream.seen["few"], stream.counts["few", "no JSON"]) == (6, 5)
    with pytest.raises(ValueError, match="source few: 2 of 10"):
        stream.add_counts("few", 6, [("no JSON", 4)])


def test_the_first_position_of_every_source_is_known(sources):
    stream = CorpusStream({**sources, "rare": dataclasses.replace(sources["few"], weight=0.01)}, 1)
    found = [stream.sample(position).source for position in range(1000)]
    assert sorted(stream.first_positions()) == sorted(found.index(name) for name in ("many", "few", "rare"))


def test_an_error_at_the_start_names_the_source(tmp_path):
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ValueError, match=r"source books: .*a\.jsonl: holds no row"):
        CorpusStream({"books": SourceConfig(kind="text", path=str(tmp_path / "a.jsonl"))}, 1)


def test_another_source_does_not_change_the_order_within_one(sources):
    def order(found):
        stream = CorpusStream(found, 1)
        return [text for text in texts(stream, range(200)) if text.startswith("few")]

    alone, mixed = order({"few": sources["few"]}), order(sources)
    assert 80 < len(mixed) < 120
    assert mixed == alone[: len(mixed)]
