"""Logits of a batch in which some rows are equal: each distinct row goes through the model once.

The samples of one prompt are equal before the first step, and stay equal for as long as the model is sure of the
tokens that are fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def logits_of_distinct_rows(
    model: Callable[..., Any],
    tokens: Int[Tensor, "R L"],
    token_mask: Bool[Tensor, "R L"] | None,
    positions: Bool[Tensor, "R L"],
    num_positions: int,
    **arguments: Any,
) -> Float[Tensor, "N V"]:
    """Returns the logits of all rows at N positions, in row-major order.

    The CPU waits for the device to learn which rows are equal.

    Args:
        model: The forward pass of :class:`~unigrpo.models.mmada.MMadaModelLM`.
        tokens: Token ids.
        token_mask: True on real tokens; None: everywhere.
        positions: Where logits are needed. Rows that differ only here are distinct, too.
        num_positions: N.
        arguments: Other arguments of the forward pass.
    """
    masks = [positions] if token_mask is None else [positions, token_mask]
    distinct, kind = torch.cat([tokens, *masks], dim=1).unique(dim=0, return_inverse=True)
    if len(distinct) == len(tokens):
        return model(
            tokens, attention_mask=token_mask, positions=positions, num_positions=num_positions, **arguments
        ).logits
    own_tokens, own_positions, *own_mask = distinct.split(tokens.shape[1], dim=1)
    own_positions = own_positions.bool()
    place = own_positions.flatten().cumsum(0).view_as(own_positions) - 1
    logits = model(
        own_tokens,
        attention_mask=own_mask[0].bool() if own_mask else None,
        positions=own_positions,
        num_positions=int(own_positions.sum()),
        **arguments,
    ).logits
    return logits[place[kind][positions]]
