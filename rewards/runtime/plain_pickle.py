"""Pickled messages that hold only numbers, texts and containers, so that reading one runs no code of its sender."""

from __future__ import annotations

import io
import pickle
from typing import Any

NUMPY = frozenset({
    ("numpy", "dtype"), ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
})  # fmt: skip
"""What numpy's numbers and arrays are made of. None of it calls what a message names."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in NUMPY:
            raise pickle.UnpicklingError(
                f"the message names {module_name}.{global_name}; only numbers, texts, containers and arrays are read"
            )
        return super().find_class(module_name, global_name)


def loads(message: bytes) -> Any:
    """Returns what a message holds.

    Raises:
        ValueError: It is no pickle, or it names a class or function other than those of numpy's numbers and arrays.

    >>> loads(pickle.dumps({"outputs": [0.5, 1]}))
    {'outputs': [0.5, 1]}
    """
    try:
        return _PlainUnpickler(io.BytesIO(message)).load()
    except Exception as error:  # a damaged message may fail in any way, and ask for more memory than there is
        raise ValueError(f"the answer is no pickle of plain values ({error})") from error
