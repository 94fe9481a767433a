"""Counts the live bytes of tensors under FakeTensorMode, in which no memory is allocated."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unigrpo.models import wide_linear


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations return, until their storage is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._storages: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._storages:
            return
        self._storages[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._storages.pop(key)

    @contextmanager
    def measured(self) -> Iterator[list[float]]:
        """Yields a list. After the block, it has the peak number of GB (1e9 bytes) beyond those before the block."""
        before, found = self.now, []
        self.peak = self.now
        yield found
        found.append((self.peak - before) / 1e9)


@contextmanager
def fake_memory() -> Iterator[LiveBytes]:
    """Makes all tensors fake, and yields a counter of the bytes that they would have on a GPU."""
    live = LiveBytes()
    with (
        patch.object(wide_linear, "has_wide_product", lambda x: True),
        FakeTensorMode(allow_non_fake_inputs=True),
        live,
    ):
        yield live
