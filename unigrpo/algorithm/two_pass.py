"""The gradient of a loss whose units lie in several passes through the model: first the loss, then pass by pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.entries import Entries
from unigrpo.algorithm.loss_sums import Sums


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """A loss, and what each entry contributes to its gradient."""

    loss: Float[Tensor, ""]
    sums: Sums
    log_probs: Float[Tensor, " N"]
    """Derivative of the loss by the log-probability of each entry."""
    exact_kl: Float[Tensor, " N"] | None
    """Derivative of the loss by the exact KL of each entry; None without exact KLs."""

    def surrogate(
        self, at: Tensor, log_probs: Float[Tensor, " n"], exact_kl: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        """A loss of the entries of one pass that has the gradient of the whole loss by them.

        Args:
            at: Which entries the pass scores.
            log_probs: Their log-probabilities, with a gradient.
            exact_kl: Their exact KLs, with a gradient, if there are any.
        """
        partial_loss = (self.log_probs[at] * log_probs).sum()
        if self.exact_kl is not None and exact_kl is not None:
            partial_loss = partial_loss + (self.exact_kl[at] * exact_kl).sum()
        return partial_loss


def coefficients(loss: Callable[[Entries], tuple[Tensor, Sums]], entries: Entries) -> Coefficients:
    """Differentiates a loss by its entries instead of by the weights of the model.

    By the chain rule the gradient of the loss is the sum over the passes of the gradients of
    :meth:`Coefficients.surrogate`, exactly, for a loss of any form: each pass needs memory for itself alone, however
    many views a sample has and however many samples a group.

    Args:
        loss: Function of all entries of this rank.
        entries: Scored without gradient, by the same weights that the passes with gradient will use.
    """
    leaves = [entries.log_probs.detach().requires_grad_()]
    entries = replace(entries, log_probs=leaves[0])
    if entries.exact_kl is not None:
        leaves.append(entries.exact_kl.detach().requires_grad_())
        entries = replace(entries, exact_kl=leaves[1])
    value, sums = loss(entries)
    found: list[Tensor | None] = [None] * len(leaves)
    if value.requires_grad:
        found = list(torch.autograd.grad(value, leaves, allow_unused=True))
    filled = [torch.zeros_like(leaf) if one is None else one for leaf, one in zip(leaves, found, strict=True)]
    return Coefficients(
        loss=value.detach(), sums=sums, log_probs=filled[0], exact_kl=filled[1] if len(filled) > 1 else None
    )
