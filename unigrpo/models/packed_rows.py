"""Rows without padding, packed into one sequence in which each token attends only to tokens of its own row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from unigrpo import ConfigError

VARLEN = "varlen"
"""Name of this attention implementation."""


@dataclass(frozen=True)
class PackedRows:
    """Positions of the T tokens in B padded rows of length L."""

    token: Int[Tensor, " T"]
    """Position of each token among all B L positions."""
    place: Int[Tensor, "B L"]
    """Position of each token among the T tokens; any number at padding."""
    ends: Int[Tensor, " B+1"]
    """0, and the end of each row among the T tokens (one past its last token); int32, as the kernel requires."""
    lengths: tuple[int, ...]
    """Number of tokens of each row."""

    @classmethod
    def of(cls, mask: Bool[Tensor, "B L"]) -> PackedRows:
        """Returns the positions of the tokens at which the mask is True. The CPU waits once for the GPU to compute the
        lengths."""
        number = mask.flatten().cumsum(0)
        ends = pad(number.view_as(mask)[:, -1], (1, 0)).int()
        lengths = tuple(ends.diff().tolist())
        token = torch.nonzero_static(mask.flatten(), size=sum(lengths))[:, 0]
        return cls(token, number.sub(1).clamp(min=0).view_as(mask), ends, lengths)

    def without_padding(self, values: Float[Tensor, "B L D"]) -> Float[Tensor, "1 T D"]:
        """Removes the padding."""
        return values.flatten(0, 1).index_select(0, self.token)[None]

    def with_padding(self, values: Float[Tensor, "1 T D"]) -> Float[Tensor, "B L D"]:
        """Moves each token back to its row; padding is 0."""
        empty = values.new_zeros(self.place.numel(), values.shape[-1])
        return empty.index_copy(0, self.token, values[0]).unflatten(0, self.place.shape)


def varlen_attention(
    module: nn.Module,
    query: Float[Tensor, "B H l E"],
    key: Float[Tensor, "B G L E"],
    value: Float[Tensor, "B G L E"],
    attention_mask: PackedRows | Bool[Tensor, "B _ l L"] | None,
    **settings: Any,
) -> tuple[Float[Tensor, "B l H E"], None]:
    """Computes attention within packed rows, or as `sdpa` does if the rows are not packed.

    On a GPU, PyTorch's kernel for sequences of any lengths is used, which needs bfloat16 or float16. On a CPU, each
    row is computed separately.

    Raises:
        ConfigError: The tensors are on a GPU and not in bfloat16 or float16.
    """
    if not isinstance(attention_mask, PackedRows):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    lengths, scale = attention_mask.lengths, settings["scaling"]
    is_grouped = query.shape[1] != key.shape[1]
    if not query.is_cuda:
        parts = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
        rows = [scaled_dot_product_attention(*part, scale=scale, enable_gqa=is_grouped) for part in parts]
        return torch.cat(rows, dim=2).transpose(1, 2), None
    if query.dtype not in (torch.bfloat16, torch.float16):
        raise ConfigError(
            f"ds.attn_implementation varlen has no GPU kernel for {query.dtype}; use ds.param_dtype bf16, or sdpa"
        )
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # (T, H, E)
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  # not in every torch that the GPU suite runs with

    ends, longest = attention_mask.ends, max(lengths)
    out: Any = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, enable_gqa=is_grouped)
    return out[None], None


AttentionInterface.register(VARLEN, varlen_attention)
