"""Efficient sending of values with many tensors between Ray processes."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A value whose tensors lie end to end, those of each type in one array.

    torch pickles each tensor as a separate file. A step sends thousands of small tensors several times, which took
    longer than to score them (tests/benchmarks/ray_overhead.py).
    """

    value: bytes
    """The pickled value, with the type and the number of each tensor in its place."""
    shapes: dict[torch.dtype, list[tuple[int, ...]]]
    contents: dict[torch.dtype, np.ndarray]
    """Bytes of the tensors of each type."""


def pack(value: Any) -> Packed:
    """Packs a value so that :func:`unpack` restores it bit by bit.

    Raises:
        TypeError: A tensor is not on the CPU, or is part of a graph.
    """
    tensors: defaultdict[torch.dtype, list[Tensor]] = defaultdict(list)

    def take(tensor: Tensor) -> tuple[Any, tuple[torch.dtype, int]]:
        if tensor.device.type != "cpu" or tensor.requires_grad:
            raise TypeError(
                f"a tensor on {tensor.device} with requires_grad={tensor.requires_grad} cannot be sent to another "
                "process; send `tensor.detach().cpu()`"
            )
        tensors[tensor.dtype].append(tensor)
        return _tensor_of, (tensor.dtype, len(tensors[tensor.dtype]) - 1)

    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table | {Tensor: take}
    pickler.dump(value)
    return Packed(
        value=file.getvalue(),
        shapes={dtype: [tuple(t.shape) for t in same] for dtype, same in tensors.items()},
        contents={
            dtype: torch.cat([t.reshape(-1) for t in same]).view(torch.uint8).numpy()
            for dtype, same in tensors.items()
        },
    )


def unpack(packed: Packed) -> Any:
    """Restores the value of :func:`pack`; its tensors are writable."""
    tensors = {dtype: _tensors(packed.contents[dtype], dtype, shapes) for dtype, shapes in packed.shapes.items()}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) == (__name__, _tensor_of.__name__):
                return lambda dtype, number: tensors[dtype][number]
            return super().find_class(module, name)

    return Unpickler(io.BytesIO(packed.value)).load()


def _tensor_of(dtype: torch.dtype, number: int) -> Tensor:
    """Represents a tensor of :class:`Packed` in the pickled value."""
    raise NotImplementedError("only `unpack` reads what `pack` wrote")


def _tensors(content: np.ndarray, dtype: torch.dtype, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    counts = [torch.Size(shape).numel() for shape in shapes]
    joined = torch.empty(sum(counts), dtype=dtype)
    joined.view(torch.uint8).numpy()[:] = content  # Ray's own memory is read-only
    return [part.view(shape) for part, shape in zip(joined.split(counts), shapes, strict=True)]
