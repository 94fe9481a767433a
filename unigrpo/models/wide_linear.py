"""A linear layer with bfloat16 weights and a float32 result, whose sums are not rounded."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def wide_linear(x: Float[Tensor, "N D"], weight: Float[Tensor, "V D"]) -> Float[Tensor, "N V"]:
    """Returns ``x @ weight.T`` in float32.

    A bfloat16 logit of 20 is rounded by up to 0.06. The log-ratios in an objective are often smaller than that.

    Args:
        x: Inputs.
        weight: Weight of the same type as ``x``. The gradients also have this type.
    """
    if x.dtype == torch.float32:
        return F.linear(x, weight)
    result: Tensor = _WideLinear.apply(x, weight)
    return result


def has_wide_product(x: Float[Tensor, "*_"]) -> bool:
    """Whether the device has a matrix product with a float32 result. A CPU converts the factors instead."""
    return x.is_cuda


class _WideLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        if has_wide_product(x):
            return torch.mm(x, weight.T, out_dtype=torch.float32)
        return x.float() @ weight.float().T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].to(x.dtype)
        of_x, of_weight = ctx.needs_input_grad
        return gradient @ weight if of_x else None, gradient.T @ x if of_weight else None
