"""Micro-batches of a rollout batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from unigrpo.records import TrainSample

Item = TypeVar("Item")


class NonFiniteLossError(RuntimeError):
    """A loss or gradient was NaN or infinite; names the samples."""


def micro_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive slices of ``size`` items; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def length_batches(samples: Sequence[TrainSample], size: int) -> Iterator[list[int]]:
    """Indices of micro-batches of samples of similar length, so that little is padded where tasks are mixed."""
    by_length = sorted(range(len(samples)), key=lambda i: len(samples[i].rollout.token_ids))
    return (list(batch) for batch in micro_batches(by_length, size))
