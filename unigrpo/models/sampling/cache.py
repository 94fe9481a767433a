"""Keys and values of earlier passes, so that a step computes only the tokens that can have changed much.

Attention is bidirectional: once a token is fixed, the keys and values of all other tokens change, too. A cache ignores
that until the next full pass, which the samplers make at every block border. Source: Fast-dLLM, arXiv:2505.22618,
section 3.2 (prefix and dual cache).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class KeyValueCache:
    """Keys and values of whole rows, one pair per layer.

    The first pass fills the cache and computes every column. Each later pass computes as many columns as it is given,
    from ``first`` on, replaces their keys and values, and attends to all columns.
    """

    def __init__(self) -> None:
        self.first = 0
        """Where the columns of the next pass begin."""
        self._layers: list[tuple[Tensor, Tensor]] = []

    @property
    def is_filled(self) -> bool:
        """Whether a full pass has been made."""
        return bool(self._layers)

    @property
    def num_columns(self) -> int:
        """Length of whole rows; 0 before a full pass."""
        return self._layers[0][0].shape[2] if self._layers else 0

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Takes the new keys and values (B, H, l, D) of a layer and returns those of whole rows (B, H, L, D)."""
        if layer == len(self._layers):
            self._layers.append((key, value))
            return key, value
        old = self._layers[layer]
        for whole, new in zip(old, (key, value), strict=True):
            whole[:, :, self.first : self.first + new.shape[2]] = new
        return old

    def keep(self, rows: Sequence[int], num_rows: int) -> None:
        """Deletes all rows of the batch but these; with guidance each of the ``num_rows`` samples has two rows."""
        for layer, (key, value) in enumerate(self._layers):
            index = [start + row for start in range(0, len(key), num_rows) for row in rows]
            self._layers[layer] = (key[index], value[index])
