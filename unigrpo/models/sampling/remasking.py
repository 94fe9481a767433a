"""Selection of the sampled tokens to keep, by pure functions of confidences."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def commit_counts(num_masked: int, num_steps: int) -> list[int]:
    """Returns the number of tokens to fix at each step. The numbers are equal, except that the first steps fix the
    remainder.

    >>> commit_counts(7, 3)
    [3, 2, 2]
    """
    equal, rest = divmod(num_masked, num_steps)
    return [equal + (step < rest) for step in range(num_steps)]


def most_confident(confidence: Float[Tensor, "B L"], count: int) -> Bool[Tensor, "B L"]:
    """Selects the ``count`` largest values of each row; the first ones among equal values. Minus infinity is never
    selected."""
    order = confidence.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < count) & confidence.isfinite()


def at_least(confidence: Float[Tensor, "B L"], threshold: float) -> Bool[Tensor, "B L"]:
    """Selects all values that are at least this confidence, and always the largest value of each row."""
    return ((confidence >= threshold) & confidence.isfinite()) | most_confident(confidence, 1)
