"""How tensors travel between Ray processes."""

from __future__ import annotations

import ray.util
import torch
from torch import Tensor


def send_tensors_as_bytes() -> None:
    """From now on, Ray sends the tensors of this process as their bytes; the receiver needs no such call.

    torch pickles each tensor as a file of its own. A step moves thousands of small ones, and that took longer than to
    score them (tests/benchmarks/ray_overhead.py).
    """
    ray.util.register_serializer(torch.Tensor, serializer=to_bytes, deserializer=from_bytes)


def to_bytes(tensor: Tensor) -> tuple[bytes, torch.dtype, tuple[int, ...]]:
    """Bytes, type and shape of a tensor.

    Raises:
        TypeError: It is not on the CPU, or part of a graph.
    """
    if tensor.device.type != "cpu" or tensor.requires_grad:
        raise TypeError(
            f"a tensor on {tensor.device} with requires_grad={tensor.requires_grad} cannot be sent to another "
            "process; send `tensor.detach().cpu()`"
        )
    known = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor  # numpy knows no bfloat16
    return known.numpy().tobytes(), tensor.dtype, tuple(tensor.shape)


def from_bytes(packed: tuple[bytes, torch.dtype, tuple[int, ...]]) -> Tensor:
    """The inverse of :func:`to_bytes`; the result can be written to."""
    data, dtype, shape = packed
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)
