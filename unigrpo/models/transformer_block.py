"""One layer of the LLaDA/MMaDA transformer: bidirectional attention with rotary positions, and a gated MLP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from unigrpo.models.fused_ops import FusedOps, add_residual
from unigrpo.models.mmada_config import MMadaConfig
from unigrpo.models.packed_rows import PackedRows

UpdateKeyValues = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the keys and values of the columns that a pass computes and returns those of whole rows."""


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.fused_ops = FusedOps()

    def forward(self, x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        return self.fused_ops.rms_norm(x, self.weight, self.eps)


def rotary_table(
    length: int, head_dim: int, theta: float, device: torch.device
) -> tuple[Float[Tensor, "L E"], Float[Tensor, "L E"]]:
    """Returns cosines and sines of positions 0..L-1, float32; dimension i pairs with i + head_dim /
    2."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), 1.0 / theta**exponent)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def eager_attention(
    module: nn.Module,
    query: Float[Tensor, "B H l E"],
    key: Float[Tensor, "B G L E"],
    value: Float[Tensor, "B G L E"],
    attention_mask: Bool[Tensor, "B _ l L"] | None,
    scaling: float,
    **_: Any,
) -> tuple[Float[Tensor, "B l H E"], None]:
    """Computes attention with explicit matrix products and a float32 softmax: the reference for the kernels."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2), None


def select(hidden: Float[Tensor, "B L D"], index: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
    """Returns the hidden states at the positions ``index``, counted over all B L positions."""
    return hidden.flatten(0, 1).index_select(0, index)


class Block(nn.Module):
    """Pre-norm attention and gated MLP, each with a residual connection."""

    is_causal = False

    def __init__(self, config: MMadaConfig) -> None:
        super().__init__()
        width, head_dim = config.d_model, config.d_model // config.n_heads
        self.config = config
        self.fused_ops = FusedOps()
        self.head_dim = head_dim
        self.num_key_value_groups = config.n_heads // config.n_kv_heads
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, config.n_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.n_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.n_kv_heads * head_dim, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        mask: PackedRows | Bool[Tensor, "*_"] | None,
        cos: Float[Tensor, "L E"],
        sin: Float[Tensor, "L E"],
        update: UpdateKeyValues | None = None,
        index: Int[Tensor, " N"] | None = None,
    ) -> Float[Tensor, "*any D"]:
        """Returns the residual stream (B, L, D) after the block, or (N, D) at the positions ``index`` alone.

        All positions have keys and values, but what follows attention is computed only where the output is read.
        """
        residual = x if index is None else select(x, index)
        x = add_residual(self._attend(self.attn_norm(x), mask, cos, sin, update, index), residual)
        h = self.ff_norm(x)
        return add_residual(self.ff_out(self.fused_ops.gate(self.ff_proj(h), self.up_proj(h))), x)

    def _attend(
        self,
        h: Tensor,
        mask: PackedRows | Tensor | None,
        cos: Tensor,
        sin: Tensor,
        update: UpdateKeyValues | None,
        index: Tensor | None,
    ) -> Tensor:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        rotate = self.fused_ops.rotate
        query = rotate(heads(self.q_proj(h)), cos, sin)
        key, value = rotate(heads(self.k_proj(h)), cos, sin), heads(self.v_proj(h))
        if update is not None:
            key, value = update(key, value)
        attention: Callable[..., Any] = eager_attention
        if self.config._attn_implementation != "eager":
            attention = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        out, _ = attention(self, query, key, value, mask, dropout=0.0, scaling=self.head_dim**-0.5, is_causal=False)
        out = out.flatten(-2)
        return self.attn_out(out if index is None else select(out, index))
