"""Random access to the rows of JSON files: one object per line, or one list of objects."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unigrpo import DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.files import GZIP
from unigrpo.data.text import check_value, parse_object, parse_unchecked, read_bytes

Row = Mapping[str, Any]


def is_json_list(path: Path) -> bool:
    """Whether a file starts like a JSON list.

    Raises:
        ValueError: The file cannot be read.
    """
    if path.suffix == GZIP:
        return read_bytes(path).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    with path.open("rb") as file:
        while block := file.read(4096).removeprefix(b"\xef\xbb\xbf"):
            if start := block.lstrip()[:1]:
                return start == b"["
    return False


class JsonLines:
    """The lines of a JSON file, found by their byte position, so that only a compressed file must fit into memory."""

    def __init__(self, path: Path, name: str) -> None:
        """Finds the lines.

        Raises:
            ValueError: The file cannot be read.
        """
        self.folder = path.parent
        self._path, self._name = path, name
        self._content = read_bytes(path) if path.suffix == GZIP else None
        spans: list[tuple[int, int, int]] = []
        start = 0
        with path.open("rb") as file:
            lines = file if self._content is None else io.BytesIO(self._content)
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    spans.append((number, start, len(line)))
                start += len(line)
        self._spans = np.array(spans, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._spans)

    def key(self, index: int) -> str:
        return f"{self._name}:{self._spans[index, 0]}"

    def row(self, index: int) -> Row:
        return parse_object(self._line(index), self.key(index))

    def _line(self, index: int) -> bytes:
        _, start, length = self._spans[index].tolist()
        if self._content is not None:
            return self._content[start : start + length]
        with self._path.open("rb") as file:
            file.seek(start)
            return file.read(length)


class JsonList:
    """A JSON file that holds one list of objects, or of texts, which become the column ``text``."""

    def __init__(self, path: Path, name: str) -> None:
        """Reads the list.

        Raises:
            ValueError: The file holds no list.
        """
        self.folder = path.parent
        self._name = name
        try:
            rows = parse_unchecked(read_bytes(path), str(path))
        except BadSample as error:
            raise DataError(f"{error}; write one object per line into a .jsonl file?") from error
        if not isinstance(rows, list):
            raise DataError(f"{path}: expected a list of objects, found {type(rows).__name__}")
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def row(self, index: int) -> Row:
        row = self._rows[index]
        check_value(row, self.key(index))
        if isinstance(row, str):
            return {"text": row}
        if not isinstance(row, dict):
            raise BadSample("no JSON object", f"{self.key(index)}: expected an object, found {type(row).__name__}")
        return row
