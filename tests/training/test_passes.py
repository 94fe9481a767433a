"""Passes of rows of similar length: every row once, little padding, and no more than the room."""

from __future__ import annotations

from dataclasses import replace

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
    assert padded - sum(LENGTHS) == 2 + 2 + 1 + 2 + 1  # in file order it would be over 3,000


def test_a_pass_has_no_more_tokens_than_there_is_room_for_but_at_least_a_row():
    config = RunConfig(train=TrainConfig(micro_batch_tokens=2200))
    assert packed(rows(LENGTHS), config) == [[0, 6, 4, 2], [5, 1], [3]]  # 4 x 62, 2 x 1100, 1101
    config = replace(config, train=TrainConfig(micro_batch_tokens=70))
    assert packed(rows(LENGTHS), config) == [[0], [6], [4], [2], [5], [1], [3]]
    assert packed([], config) == []
