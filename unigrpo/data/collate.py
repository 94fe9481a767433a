"""Padded batches from rows without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pad_rows(rows: Sequence[Tensor], fill: float | int | bool) -> Tensor:
    """Stacks tensors that differ in their last axis, padded on the right with ``fill``."""
    length = max(row.shape[-1] for row in rows)
    shape = (len(rows), *rows[0].shape[:-1], length)
    result = torch.full(shape, fill, dtype=rows[0].dtype)
    for target, row in zip(result, rows, strict=True):
        target[..., : row.shape[-1]] = row
    return result
