"""Micro-batches of similar length: every sample once, and little padding."""

from types import SimpleNamespace
from typing import Any

import torch

from unigrpo.training.batching import length_batches


def test_short_and_long_rows_are_not_mixed_and_none_is_lost():
    lengths = [60, 1100, 62, 1101, 61, 1099, 60]
    samples: list[Any] = [SimpleNamespace(rollout=SimpleNamespace(token_ids=torch.zeros(n))) for n in lengths]
    batches = list(length_batches(samples, 4))
    assert batches == [[0, 6, 4, 2], [5, 1, 3]]
    padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)
    assert padded - sum(lengths) == 2 + 2 + 1 + 2 + 1  # in file order it would be over 3,000
