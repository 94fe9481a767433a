"""Random access to rows: CSV, JSON lists, JSON lines, parquet, and Hugging Face data sets."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np

from unigrpo.data.corpora.files import Parts, expand_paths
from unigrpo.data.corpora.sample import BadSample

Row = Mapping[str, Any]
ENDINGS = (".csv", ".json", ".jsonl", ".parquet")


class Table(Protocol):
    """Rows by number."""

    folder: Path
    """Where relative image paths start."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """File and line of a row."""
        ...

    def row(self, index: int) -> Row:
        """One row.

        Raises:
            BadSample: It cannot be read.
        """
        ...


def open_table(path: str, split: str = "train") -> Table:
    """The table of a file, of several, or of a Hugging Face data set.

    Args:
        path: See SourceConfig.path.
        split: Of a Hugging Face data set.

    Raises:
        ValueError: No such file or data set, a file that is broken as a whole, or one without rows.
    """
    endings = {Path(part).suffix for part in path.split(",")}
    if not endings & {*ENDINGS}:
        table: Table = _hub_table(path, split)
    else:
        files = expand_paths(path, f"files that end in one of {', '.join(ENDINGS)}")
        tables = [_open_file(file) for file in files]
        table = tables[0] if len(tables) == 1 else _Joined(tables)
    if not len(table):
        raise ValueError(f"{path}: holds no row")
    return table


class JsonLines:
    """The lines of a JSON file, found by their place in it, so that a file need not fit into memory."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._path = path
        spans: list[tuple[int, int, int]] = []
        start = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    spans.append((number, start, len(line)))
                start += len(line)
        self._spans = np.array(spans, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self._spans)

    def key(self, index: int) -> str:
        return f"{self._path.name}:{self._spans[index, 0]}"

    def row(self, index: int) -> Row:
        _, start, length = self._spans[index].tolist()
        with self._path.open("rb") as file:
            file.seek(start)
            line = file.read(length)
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise BadSample("no JSON", f"{self.key(index)}: not JSON ({error}): {line[:60]!r}") from error
        return _checked(row, self.key(index))


class JsonList:
    """A JSON file that holds one list of objects."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._name = path.name
        try:
            self._rows = json.loads(path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON ({error}); write one object per line into a .jsonl file?") from error
        if not isinstance(self._rows, list):
            raise ValueError(f"{path}: expected a list of objects, found {type(self._rows).__name__}")

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def row(self, index: int) -> Row:
        return _checked(self._rows[index], self.key(index))


class Csv:
    """A CSV file with a line of column names, kept in memory."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self._name = path.name
        self._rows: list[tuple[int, Row]] = []
        line = 1
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)  # a quote without its other half would swallow rows
                _ = reader.fieldnames  # reads the line of names
                line = reader.line_num + 1
                for row in reader:
                    self._rows.append((line, row))
                    line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{line}: no CSV in UTF-8 from here on ({error})") from error

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return f"{self._name}:{self._rows[index][0]}"

    def row(self, index: int) -> Row:
        row = self._rows[index][1]
        if None in row or None in row.values():
            raise BadSample("wrong number of columns", f"{self.key(index)}: more or fewer fields than column names")
        return row


class Arrow:
    """Parquet and Hugging Face data sets, mapped into memory by `datasets`; images stay encoded."""

    def __init__(self, data: datasets.Dataset, name: str, folder: Path) -> None:
        self.folder = folder
        self._name = name
        for column, feature in data.features.items():
            if isinstance(feature, datasets.Image):
                data = data.cast_column(column, datasets.Image(decode=False))
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def key(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def row(self, index: int) -> Row:
        return self._data[index]


class _Joined:
    """Several tables behind one another."""

    def __init__(self, tables: list[Table]) -> None:
        self.folder = tables[0].folder
        self._tables = tables
        self._parts = Parts([len(table) for table in tables])

    def __len__(self) -> int:
        return len(self._parts)

    def key(self, index: int) -> str:
        part, place = self._parts.locate(index)
        return self._tables[part].key(place)

    def row(self, index: int) -> Row:
        part, place = self._parts.locate(index)
        return self._tables[part].row(place)


def _open_file(path: Path) -> Table:
    if path.suffix == ".jsonl":
        return JsonLines(path)
    if path.suffix == ".json":
        return JsonList(path)
    if path.suffix == ".csv":
        return Csv(path)
    if path.suffix != ".parquet":
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join(ENDINGS)}")
    try:
        return Arrow(datasets.Dataset.from_parquet(str(path)), path.name, path.parent)  # type: ignore[arg-type]
    except Exception as error:  # pyarrow and datasets each raise their own kinds
        raise ValueError(f"{path}: no parquet file could be read ({type(error).__name__}: {error})") from error


def _hub_table(name: str, split: str) -> Table:
    folder = Path(name).expanduser()
    repository, _, configuration = name.partition(":")
    try:
        if folder.is_dir():
            data = datasets.load_from_disk(str(folder))
            data = data[split] if isinstance(data, datasets.DatasetDict) else data
        else:
            data = datasets.load_dataset(repository, configuration or None, split=split)
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        raise ValueError(
            f"{name}: neither files that end in one of {', '.join(ENDINGS)} nor a data set that could be loaded "
            f"(split {split!r}): {type(error).__name__}: {error}"
        ) from error
    assert isinstance(data, datasets.Dataset)
    return Arrow(data, f"{name}[{split}]", folder if folder.is_dir() else Path())


def _checked(row: object, key: str) -> Row:
    if not isinstance(row, dict):
        raise BadSample("no JSON object", f"{key}: expected a JSON object, found {type(row).__name__}")
    return row
