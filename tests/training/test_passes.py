"""Tests passes of rows of similar length: every row once, little padding, and at most the allowed size."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch

from unigrpo.config import RunConfig, TrainConfig
from unigrpo.training.passes import PassRow, packed

LENGTHS = [60, 1100, 62, 1101, 61, 1099, 60]


def rows(lengths):
    return [
        PassRow(
            sample=i, view=0, token_ids=torch.zeros(n, dtype=torch.long), is_masked=torch.ones(n, dtype=torch.bool),
            is_scored=torch.ones(n, dtype=torch.bool), image_mask=torch.zeros(n, dtype=torch.bool),
        )
        for i, n in enumerate(lengths)
    ]  # fmt: skip


def test_short_and_long_rows_are_not_mixed_and_none_is_lost():
    passes = packed(rows(LENGTHS), RunConfig(train=TrainConfig(micro_batch_size=4)))
    assert passes == [[0, 6, 4, 2], [5, 1, 3]]
    padded = sum(max(LENGTHS[i] for i in one) * len(one) for one in passes)
    assert padded - sum(LENGTHS) == 2 + 2 + 1 + 2 + 1  # in the order of the file, it would be over 3,000


def test_a_pass_has_at_most_the_allowed_tokens_but_at_least_a_row():
    config = RunConfig(train=TrainConfig(micro_batch_tokens=2200))
    assert packed(rows(LENGTHS), config) == [[0, 6, 4, 2], [5, 1], [3]]  # 4 x 62, 2 x 1100, 1101
    config = replace(config, train=TrainConfig(micro_batch_tokens=70))
    assert packed(rows(LENGTHS), config) == [[0], [6], [4], [2], [5], [1], [3]]
    assert packed([], config) == []


def test_a_pass_ends_where_the_length_changes_if_that_needs_no_further_pass():
    """Two of the 24 samples are not scored, so that passes of four would include rows of two groups."""
    lengths = [300] * 7 + [420] * 8 + [350] * 7
    passes = packed(rows(lengths), RunConfig(train=TrainConfig(micro_batch_size=4)))
    assert len(passes) == 6
    assert all(len({lengths[i] for i in one}) == 1 for one in passes)
    assert sorted(i for one in passes for i in one) == list(range(22))
    lengths = [300] * 7 + [420] * 9  # four passes are full
    assert [len(one) for one in packed(rows(lengths), RunConfig(train=TrainConfig(micro_batch_size=4)))] == [4] * 4


def cost(lengths, passes):
    """Returns the cost of passes: their padding, and a tenth of each pass with padding."""
    computed = [max(lengths[i] for i in one) * len(one) for one in passes]
    spare = [number - sum(lengths[i] for i in one) for number, one in zip(computed, passes, strict=True)]
    return sum(padded + 0.1 * number for padded, number in zip(spare, computed, strict=True) if padded)


def test_the_cheapest_division_into_the_fewest_passes_is_used():
    generator = random.Random(0)
    for _ in range(60):
        lengths = [n for n in generator.sample(range(20, 90), k=4) for _ in range(generator.randint(1, 3))]
        size = generator.randint(1, 5)
        order, number = sorted(range(len(lengths)), key=lambda i: lengths[i]), math.ceil(len(lengths) / size)
        ways = [
            [order[start:end] for start, end in pairwise([0, *borders, len(order)])]
            for borders in combinations(range(1, len(order)), number - 1)
        ]
        fitting = [cost(lengths, way) for way in ways if max(map(len, way)) <= size]
        passes = packed(rows(lengths), RunConfig(train=TrainConfig(micro_batch_size=size)))
        assert [i for one in passes for i in one] == order
        assert (len(passes), max(map(len, passes)) <= size) == (number, True)
        assert cost(lengths, passes) == pytest.approx(min(fitting))
