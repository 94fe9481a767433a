"""Tests the order of samples: epochs, mixtures and ranks."""

from collections import Counter

import pytest

from unigrpo.data.corpora.order import Mixture, rank_positions, shuffled_index
from unigrpo.data.files import Parts, expand_paths


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_every_epoch_has_every_item_once_in_an_order_of_its_own(size):
    epochs = [[shuffled_index(epoch * size + i, size, 7, "a") for i in range(size)] for epoch in range(2)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    assert size < 64 or epochs[0] != epochs[1] != sorted(epochs[1])


def test_every_item_is_first_in_an_epoch_equally_often():
    found = Counter(shuffled_index(epoch * 6, 6, 1) for epoch in range(3000))
    assert all(abs(found[item] - 500) < 100 for item in range(6))  # five standard deviations


def test_shuffles_differ_by_key():
    orders = {tuple(shuffled_index(i, 50, *key) for i in range(50)) for key in ((1, "a"), (2, "a"), (1, "b"))}
    assert len(orders) == 3


def test_a_block_of_the_mixture_has_the_fractions_of_the_weights():
    mixture = Mixture({"ai2d": 3.5, "llava": 5.5, "clevr": 0.5, "geo": 0.5}, seed=1)
    found = Counter(mixture.source_at(position)[0] for position in range(2000, 3000))
    assert found == {"ai2d": 350, "llava": 550, "clevr": 50, "geo": 50}


def test_the_positions_of_every_source_have_no_gaps():
    mixture = Mixture({"a": 0.02, "b": 0.98}, seed=3)
    found = [mixture.source_at(position) for position in range(3000)]
    assert [place for name, place in found if name == "a"] == list(range(60))
    assert [place for name, place in found if name == "b"] == list(range(2940))


def test_weights_that_do_not_divide_the_block_fill_it():
    assert Mixture({"a": 1, "b": 1, "c": 1}, seed=0).counts == {"a": 334, "b": 333, "c": 333}


def test_a_weight_that_gives_no_sample_is_refused():
    with pytest.raises(ValueError, match=r"weight of source b is 0.0001"):
        Mixture({"a": 1, "b": 0.0001}, seed=0)


def test_a_mixture_without_sources_is_refused():
    with pytest.raises(ValueError, match="without sources"):
        Mixture({}, seed=0)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_position_belongs_to_one_rank(world_size):
    shards = [list(rank_positions(10, 7, rank, world_size)) for rank in range(world_size)]
    assert sorted(position for shard in shards for position in shard) == list(range(10, 17))


def test_paths_are_split_at_commas_outside_of_braces_and_expanded(tmp_path):
    for name in ("0.tar", "1.tar", "2.tar", "b.csv", "a.csv"):
        (tmp_path / name).touch()
    found = expand_paths(f"{tmp_path}/{{0,2}}.tar, {tmp_path}/*.csv", "files")
    assert [path.name for path in found] == ["0.tar", "2.tar", "a.csv", "b.csv"]


def test_a_path_without_files_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"1\.tar: no such file"):
        expand_paths(f"{tmp_path}/{{1..2}}.tar", "tars")


def test_parts_find_items_and_skip_empty_ones():
    parts = Parts([2, 0, 3])
    assert len(parts) == 5
    assert [parts.locate(index) for index in range(5)] == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
