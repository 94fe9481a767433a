"""Functions between the matrix products of a block, either with one kernel for each operation or fused by
torch.compile."""

from __future__ import annotations

import functools
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unigrpo import ConfigError


def _may_overwrite() -> bool:
    """Whether intermediate results may be overwritten: the backward pass would need them, and torch.compile plans its
    memory itself. New memory costs a CPU as much as the arithmetic."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling())


def rms_norm(x: Float[Tensor, "*any D"], weight: Float[Tensor, " D"], eps: float) -> Float[Tensor, "*any D"]:
    """Applies a root-mean-square norm in float32 and casts back before the weight is applied."""
    wide = x.float()
    squared = wide.pow(2)
    scale = torch.rsqrt(squared.mean(-1, keepdim=True) + eps)
    if not _may_overwrite():
        return weight * (wide * scale).to(x.dtype)
    return torch.mul(wide, scale, out=squared).to(x.dtype).mul_(weight)


def rotate(
    x: Float[Tensor, "B H L D"], cos: Float[Tensor, "L D"], sin: Float[Tensor, "L D"]
) -> Float[Tensor, "B H L D"]:
    """Rotates queries or keys by their position, in float32."""
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    if not _may_overwrite():
        return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)
    half = first.shape[-1]
    turned = wide * cos
    turned[..., :half] -= second * sin[:, :half]
    turned[..., half:] += first * sin[:, half:]
    return turned.to(x.dtype)


def gate(x: Float[Tensor, "*any"], by: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Returns SiLU of ``x``, times ``by``; without gradients the result overwrites ``x``."""
    return F.silu(x, inplace=True).mul_(by) if _may_overwrite() else F.silu(x) * by


def add_residual(new: Float[Tensor, "*any"], x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Returns the sum of a layer's output and its input; without gradients the result overwrites ``new``."""
    return new.add_(x) if _may_overwrite() else x + new


@dataclass(frozen=True)
class FusedOps:
    """The three functions that a block calls between its matrix products."""

    rms_norm: Callable[[Float[Tensor, "*any D"], Float[Tensor, " D"], float], Float[Tensor, "*any D"]] = rms_norm
    rotate: Callable[
        [Float[Tensor, "B H L D"], Float[Tensor, "L D"], Float[Tensor, "L D"]], Float[Tensor, "B H L D"]
    ] = rotate
    gate: Callable[[Float[Tensor, "*any"], Float[Tensor, "*any"]], Float[Tensor, "*any"]] = gate


@functools.cache
def compiled() -> FusedOps:
    """Returns the functions fused by torch.compile for rows of any length; they are compiled at their first call.

    Only these functions are compiled, and not the layers around them. Matrix products and attention are library
    kernels in any case, and the hooks of DeepSpeed, adapters and caches are not compiled.

    Raises:
        ValueError: There is no compiler, or it lacks the headers of Python.
    """
    # What is written for a GPU is launched by C, and what is written for a CPU is C++.
    variable, usual = ("CC", "gcc") if torch.cuda.is_available() else ("CXX", "g++")
    compiler = os.environ.get(variable, usual)
    if shutil.which(compiler) is None:
        raise ConfigError(
            f"ds.compile needs a compiler, and there is no {compiler} here; install it, name another by {variable}, "
            "or set ds.compile false"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise ConfigError(
            f"ds.compile needs the headers of Python, and there is no {header}; install them (on Debian: "
            "python3-dev), or set ds.compile false"
        )
    fuse = functools.partial(torch.compile, dynamic=True)
    norm_of_rows = fuse(rms_norm)

    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        # Always a matrix: torch.compile makes another kernel for each number of axes, and gives up after eight.
        return norm_of_rows(x.flatten(0, -2), weight, eps).view_as(x)

    return FusedOps(norm, fuse(rotate), fuse(gate))
