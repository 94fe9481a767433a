"""Captions of a JSON file as a table on disk that all processes of a node share in memory.

A loader process would otherwise hold all captions: 1.8 GB for four million, in each of 72 processes of a node.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unigrpo import DataError

DIGEST_TYPE = "S32"
"""Type of a key's digest: 16 bytes as hexadecimal text, because NumPy cuts zero bytes off."""
NAMES = ("digests", "ends", "captions")


class MappedCaptions:
    """Captions by key: a binary search in the sorted digests of the keys finds the bytes of a caption."""

    def __init__(self, folder: Path) -> None:
        """Opens the files of :func:`write_captions`."""
        self._folder = folder
        self._digests, self._ends, self._captions = (np.load(folder / f"{n}.npy", mmap_mode="r") for n in NAMES)

    def __len__(self) -> int:
        return len(self._digests)

    def get(self, key: str) -> object:
        """Returns the caption of a key, or the list of its captions; None if it has none."""
        digest = _digest(key)
        place = int(np.searchsorted(self._digests, np.array(digest, dtype=DIGEST_TYPE)))
        if place == len(self) or self._digests[place] != digest:
            return None
        start = int(self._ends[place - 1]) if place else 0
        return json.loads(self._captions[start : int(self._ends[place])].tobytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedCaptions, (self._folder,)  # loader processes map the files themselves


def open_mapped(path: Path, folder: str, read: Callable[[], Mapping[str, object]]) -> MappedCaptions:
    """Returns the captions of a JSON file, whose table is written if it does not exist.

    Args:
        path: The JSON file; the table is named after it, its size and its time.
        folder: Folder of the tables.
        read: Reads the JSON file.

    Raises:
        ValueError: The file is missing, or what ``read`` raises.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path}: no captions could be read ({error.strerror}); name a JSON file") from error
    name = repr((str(path.absolute()), found.st_size, found.st_mtime_ns))
    table = Path(folder).expanduser() / f"{path.stem}-{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}"
    if not table.is_dir():
        part = table.with_suffix(f".{os.getpid()}.part")
        write_captions(read(), part)
        try:
            part.rename(table)
        except OSError:  # another process was faster
            if not table.is_dir():
                raise
    return MappedCaptions(table)


def write_captions(captions: Mapping[str, object], folder: Path) -> None:
    """Writes a table of captions into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted((_digest(key), key) for key in captions)
    texts = [json.dumps(captions[key], ensure_ascii=False).encode() for _, key in rows]
    np.save(folder / "digests.npy", np.array([digest for digest, _ in rows], dtype=DIGEST_TYPE))
    np.save(folder / "ends.npy", np.cumsum([len(text) for text in texts], dtype=np.int64))
    np.save(folder / "captions.npy", np.frombuffer(b"".join(texts), dtype=np.uint8))


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest().encode()
