"""Measures the memory of logits, which are tensors as wide as the vocabulary or a part of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LogitMemory(TorchDispatchMode):
    """Counts the bytes of live logits and of live tensors of the same width that are computed from them."""

    def __init__(self, widths: Sequence[int]) -> None:
        """Args:
        widths: Sizes of the last axis of logits, for the whole vocabulary and for a slice of it.
        """
        super().__init__()
        self.peak_bytes = 0
        self._widths = set(widths)
        self._alive_bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        old = {_storage(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and self._is_logits(tensor) and _storage(tensor) not in old:
                self._add(tensor)
        return out

    def _is_logits(self, tensor: Tensor) -> bool:
        return tensor.dim() > 1 and tensor.shape[-1] in self._widths

    def _add(self, tensor: Tensor) -> None:
        size = tensor.untyped_storage().nbytes()
        self._alive_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._alive_bytes)
        weakref.finalize(tensor.untyped_storage(), self._remove, size)

    def _remove(self, size: int) -> None:
        self._alive_bytes -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def peak_logit_bytes(call: Callable[[], Any], widths: Sequence[int]) -> int:
    """Returns the peak number of bytes of logits during a call."""
    with LogitMemory(widths) as memory:
        call()
    return memory.peak_bytes
