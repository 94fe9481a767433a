"""A model that computes equal rows of a batch only once.

The samples of one prompt are equal before the first step, and stay equal as long as their sampled tokens agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unigrpo.models.mmada import MMadaOutput


class EqualRowsOnce:
    """A forward pass for the samplers. Without a cache, it computes each distinct row only once.

    Before such a pass, the CPU waits for the device to find the equal rows.

    Args:
        model: The forward pass of :class:`~unigrpo.models.mmada.MMadaModelLM`, in which a row's logits depend only on
            this row.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self._model = model
        self.device: torch.device = getattr(model, "device", torch.device("cpu"))
        """Device of the model."""

    def __call__(
        self,
        tokens: Int[Tensor, "R L"],
        *,
        attention_mask: Bool[Tensor, "R K"] | None,
        positions: Bool[Tensor, "R L"],
        num_positions: int,
        **arguments: Any,
    ) -> MMadaOutput:
        """Returns the logits of all rows at N positions, in row-major order. The arguments are those of the model.

        Rows that differ in tokens, mask or positions are distinct.
        """
        if "cache" not in arguments:
            masks = [positions] if attention_mask is None else [positions, attention_mask]
            distinct, kind = torch.cat([tokens, *masks], dim=1).unique(dim=0, return_inverse=True)
            if len(distinct) < len(tokens):
                return self._expanded(distinct, kind, positions, **arguments)
        return self._model(
            tokens, attention_mask=attention_mask, positions=positions, num_positions=num_positions, **arguments
        )

    def _expanded(
        self, distinct: Int[Tensor, "D W"], kind: Int[Tensor, " R"], positions: Bool[Tensor, "R L"], **arguments: Any
    ) -> MMadaOutput:
        """Returns the logits of all rows, computed from the distinct rows of tokens, positions and mask."""
        tokens, own_positions, *mask = distinct.split(positions.shape[1], dim=1)
        own_positions = own_positions.bool()
        place = own_positions.flatten().cumsum(0).view_as(own_positions) - 1
        logits = self._model(
            tokens,
            attention_mask=mask[0].bool() if mask else None,
            positions=own_positions,
            num_positions=int(own_positions.sum()),
            **arguments,
        ).logits
        return MMadaOutput(logits=logits[place[kind][positions]])
