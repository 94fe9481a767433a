"""Micro-batches: consecutive slices of a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def micro_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Yields consecutive slices of ``size`` items; the last may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
