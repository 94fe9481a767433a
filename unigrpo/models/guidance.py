"""Classifier-free guidance of logits, in sampling and in scoring."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def guide(
    conditional: Float[Tensor, "*any V"], unconditional: Float[Tensor, "*any V"], scale: float
) -> Float[Tensor, "*any V"]:
    """Returns logits of classifier-free guidance, ``u + (scale + 1)(c - u)``: a scale of 0 is no guidance."""
    return (conditional - unconditional).mul_(scale + 1).add_(unconditional)  # one copy, as logits are large
