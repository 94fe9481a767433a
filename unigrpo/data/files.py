"""Expansion of the paths of a config to files."""

from __future__ import annotations

import glob
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import braceexpand

from unigrpo import DataError

TEXT_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
"""Endings of files that may also be packed, as in ``a.jsonl.gz``."""
ARROW_ENDINGS = (".parquet", ".arrow")
ENDINGS = (*TEXT_ENDINGS, *ARROW_ENDINGS)
GZIP = ".gz"


def is_table_name(path: str) -> bool:
    """Whether a name ends as the files that `open_table` reads."""
    name = Path(path.removesuffix(GZIP))
    return name.suffix in (TEXT_ENDINGS if path.endswith(GZIP) else ENDINGS)


def expand_paths(paths: str, what: str) -> list[Path]:
    """Returns the files of paths joined by commas, with braces and stars; those of a star are sorted.

    >>> expand_paths("unigrpo/{records,rng}.py", "modules")
    [PosixPath('unigrpo/records.py'), PosixPath('unigrpo/rng.py')]

    Raises:
        ValueError: A path names no file, or something that is no file, such as a pipe.
    """
    found: list[Path] = []
    for pattern in split_paths(paths):
        for name in braceexpand.braceexpand(str(Path(pattern).expanduser())):
            files = [Path(name)] if Path(name).exists() else [Path(match) for match in sorted(glob.glob(name))]
            if not files:
                raise DataError(f"{name}: no such file (looked in {Path.cwd()}); expected {what}")
            found += files
    for file in found:
        check_regular(file)
    return found


def check_regular(path: Path) -> None:
    """Raises an error for a pipe, a device or a socket, since reading one may wait or fill the memory without end.

    Raises:
        ValueError: The path exists and is neither a file nor a folder.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: expected a file, found a pipe, a device or a socket; copy its content into a file")


def split_paths(paths: str) -> list[str]:
    """Splits paths at commas outside of braces.

    >>> split_paths("a/{b,c}.csv, d.csv")
    ['a/{b,c}.csv', 'd.csv']
    """
    parts, depth = [""], 0
    for letter in paths:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


class Parts:
    """Several concatenated sequences: finds the sequence that holds an item, and the item's index in it."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._ends = list(accumulate(lengths))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Returns the number of the sequence, and the index in it."""
        part = bisect_right(self._ends, index)
        return part, index - (self._ends[part - 1] if part else 0)
