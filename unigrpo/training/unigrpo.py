"""The K optimizer steps that UniGRPO makes on one rollout batch, as one rank sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from unigrpo.algorithm.objective import ObjectiveSums, unigrpo_loss
from unigrpo.config import RunConfig
from unigrpo.data.collate import padded_log_probs, scoring_batch
from unigrpo.records import TrainSample
from unigrpo.training.scoring import log_likelihood
from unigrpo.training.step import Engine

Item = TypeVar("Item")


class NonFiniteLossError(RuntimeError):
    """A loss or gradient was NaN or infinite; the weights were not updated."""


def micro_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive slices of ``size`` items; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
