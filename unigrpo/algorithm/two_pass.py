"""The gradient of a loss whose units are in several passes through the model, in two rounds of passes.

The first round computes the loss, and the second round its gradient, pass by pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unigrpo.algorithm.entries import Entries
from unigrpo.algorithm.loss_sums import Sums


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """A loss and its derivatives by the log-probabilities of the entries."""

    loss: Float[Tensor, ""]
    sums: Sums
    log_probs: Float[Tensor, " N"]
    """Derivative of the loss by the log-probability of each entry."""
    exact_kl: Float[Tensor, " N"] | None
    """Derivative of the loss by the exact KL of each entry; None without exact KLs."""

    def surrogate(
        self, at: Int[Tensor, " n"], log_probs: Float[Tensor, " n"], exact_kl: Float[Tensor, " n"] | None = None
    ) -> Float[Tensor, ""]:
        """Returns a loss of the entries of one pass whose gradient is that of the whole loss by these entries.

        Args:
            at: Entries that the pass scores.
            log_probs: Their log-probabilities, with a gradient.
            exact_kl: Their exact KLs, with a gradient; None without exact KLs.
        """
        partial_loss = (self.log_probs[at] * log_probs).sum()
        if self.exact_kl is not None and exact_kl is not None:
            partial_loss = partial_loss + (self.exact_kl[at] * exact_kl).sum()
        return partial_loss


def coefficients(loss: Callable[[Entries], tuple[Float[Tensor, ""], Sums]], entries: Entries) -> Coefficients:
    """Differentiates a loss by its entries instead of by the weights of the model.

    By the chain rule, the gradient of any loss is exactly the sum over the passes of the gradients of
    :meth:`Coefficients.surrogate`. Each pass therefore needs only its own memory, whatever the number of views of a
    sample and of samples of a group.

    Args:
        loss: Function of all entries of this rank.
        entries: Entries that were scored without a gradient, with the weights that the passes with a gradient will
            use.
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
