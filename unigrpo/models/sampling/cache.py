"""A cache of keys and values of earlier passes. With it, a step computes only the tokens that can have changed much.

Attention is bidirectional: once a token is fixed, the keys and values of all other tokens change. A cache ignores
these changes until the next full pass, which the samplers run at the start of every block. Source: Fast-dLLM,
arXiv:2505.22618, section 3.2 (prefix and dual cache).
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor


class KeyValueCache:
    """Keys and values of whole rows, with one pair per layer.

    The first pass computes every column and fills the cache. Each later pass computes only the columns that it is
    given, which begin at ``first``. It replaces their keys and values and attends to all columns.
    """

    def __init__(self) -> None:
        self.first = 0
        """First column of the next pass."""
        self._layers: list[tuple[Tensor, Tensor]] = []

    @property
    def is_filled(self) -> bool:
        """Whether a full pass has filled the cache."""
        return bool(self._layers)

    @property
    def num_columns(self) -> int:
        """Length of whole rows; 0 before a full pass."""
        return self._layers[0][0].shape[2] if self._layers else 0

    def update(
        self, layer: int, key: Float[Tensor, "B H l D"], value: Float[Tensor, "B H l D"]
    ) -> tuple[Float[Tensor, "B H L D"], Float[Tensor, "B H L D"]]:
        """Stores the new keys and values of a layer and returns those of whole rows."""
        if layer == len(self._layers):
            self._layers.append((key, value))
            return key, value
        old = self._layers[layer]
        for whole, new in zip(old, (key, value), strict=True):
            whole[:, :, self.first : self.first + new.shape[2]] = new
        return old

    def keep(self, rows: Sequence[int], num_rows: int) -> None:
        """Keeps only these rows of the batch. With guidance, each of the ``num_rows`` samples has two rows."""
        for layer, (key, value) in enumerate(self._layers):
            index = [start + row for start in range(0, len(key), num_rows) for row in rows]
            self._layers[layer] = (key[index], value[index])
