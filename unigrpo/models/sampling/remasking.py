"""Selection of the sampled tokens that are kept: pure functions of confidences."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def commit_counts(num_masked: int, num_steps: int) -> list[int]:
    """Returns the number of tokens to fix at each step: equal parts, with the remainder on the first steps.

    >>> commit_counts(7, 3)
    [3, 2, 2]
    """
    share, rest = divmod(num_masked, num_steps)
    return [share + (step < rest) for step in range(num_steps)]


def most_confident(confidence: Float[Tensor, "B L"], count: int) -> Bool[Tensor, "B L"]:
    """Selects the ``count`` largest values of each row; of equal ones the first. Minus infinity is never selected."""
    order = confidence.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < count) & confidence.isfinite()


def at_least(confidence: Float[Tensor, "B L"], threshold: float) -> Bool[Tensor, "B L"]:
    """Selects all values of at least this confidence, and the largest value of each row in any case."""
    return ((confidence >= threshold) & confidence.isfinite()) | most_confident(confidence, 1)


def guide(
    conditional: Float[Tensor, "*any V"], unconditional: Float[Tensor, "*any V"], scale: float
) -> Float[Tensor, "*any V"]:
    """Returns logits of classifier-free guidance, ``u + (scale + 1)(c - u)``: a scale of 0 is no guidance."""
    return unconditional + (scale + 1) * (conditional - unconditional)


def keep_top_p(logits: Float[Tensor, "N V"], top_p: float) -> Float[Tensor, "N V"]:
    """Returns logits with minus infinity outside the smallest set of tokens whose probability reaches ``top_p``."""
    if top_p >= 1:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, index, ordered.masked_fill(before >= top_p, -torch.inf))


def draw(logits: Float[Tensor, "N V"], noise: Float[Tensor, "N V"]) -> Int[Tensor, " N"]:
    """Samples one token per row from the softmax of the logits by an exponential race, which equals adding Gumbel
    noise.

    Args:
        logits: Logits, already divided by the temperature.
        noise: Samples of the exponential distribution with rate 1.
    """
    return (logits - noise.log()).argmax(dim=-1)
