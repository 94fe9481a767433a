"""Reading of files with one JSON value a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def numbered_lines(source: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines that are not blank with their numbers from 1, the first without a byte order mark.

    A line ends at a line feed only: U+2028 and its like are part of a text.
    """
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
