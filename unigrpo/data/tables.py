"""Reads all tables: JSON lines and lists, CSV, TSV, lines of text, parquet, Arrow, folders and data sets of the
Hub."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from unigrpo import DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.files import ENDINGS, GZIP, Parts, expand_paths, is_table_name, split_paths
from unigrpo.data.jsonl import JsonLines, JsonList, is_json_list
from unigrpo.data.text import read_text

Row = Mapping[str, Any]
NUM_PREVIEWED = 100
"""Number of rows in which columns are searched."""
EXPECTED = f"files that end in one of {', '.join(ENDINGS)}"
csv.field_size_limit(2**31 - 1)  # the module's own limit of 128 KiB is less than one long answer


@runtime_checkable
class Table(Protocol):
    """Rows by number."""

    folder: Path
    """Folder to which image paths are relative."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Returns file and line of a row."""
        ...

    def row(self, index: int) -> Row:
        """Returns one row.

        Raises:
            BadSample: The row cannot be read.
        """
        ...


def open_table(path: str, split: str = "train") -> Table:
    """Opens the rows of a file, of several files, of a folder, or of a Hugging Face data set.

    Args:
        path: Several paths may be joined by commas. Each is a file or a pattern with braces and stars, whose names end
            in one of :data:`ENDINGS`, those of text also in ``.gz``; a folder that ``save_to_disk`` wrote; a
            downloaded copy of a data set of the Hub; or the name of such a data set. ``:configuration`` may follow the
            last two.
        split: Split of the last three kinds.

    Raises:
        ValueError: No such file or data set, a file that is broken as a whole, or one without rows.
    """
    tables = [table for part in split_paths(path) for table in _open(part, split)]
    table = tables[0] if len(tables) == 1 else _Joined(tables)
    if not len(table):
        raise DataError(f"{path}: holds no row")
    return table


def previewed_rows(table: Table) -> list[Row]:
    """Returns the first rows that can be read, in which columns are searched.

    Raises:
        BadSample: None of them can be read.
    """
    rows: list[Row] = []
    broken: BadSample | None = None
    for index in range(min(len(table), NUM_PREVIEWED)):
        try:
            rows.append(table.row(index))
        except BadSample as error:
            broken = broken or error
    if not rows:
        assert broken is not None
        raise BadSample(broken.reason, f"{broken}; so are all of the first {min(len(table), NUM_PREVIEWED)} rows")
    return rows


def without_hub(path: str) -> str:
    """Returns a path of :func:`open_table` in which folders take the place of names on the Hub.

    The names are downloaded, or found among earlier downloads. Other processes read the folders without asking the
    Hub.

    Raises:
        ValueError: A name cannot be downloaded.
    """
    if not any(map(_is_on_hub, split_paths(path))):
        return path
    from unigrpo.data import hub  # noqa: PLC0415  # as in `_open`

    return ",".join(str(hub.download(part, EXPECTED)) if _is_on_hub(part) else part for part in split_paths(path))


class Csv:
    """A CSV or TSV file with a line of column names, kept in memory."""

    def __init__(self, path: Path, name: str, delimiter: str) -> None:
        """Reads the file.

        Raises:
            ValueError: It is not CSV as a whole.
        """
        self.folder = path.parent
        self._name = name
        self._rows: list[tuple[int, Row]] = []
        line = 1
        try:
            # Strict, since a quote without its other half would swallow rows.
            reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True, delimiter=delimiter)
            names = reader.fieldnames or []  # reads the line of names
            twice = sorted({column for column in names if names.count(column) > 1})
            if twice:
                raise DataError(f"{path}: the column {twice[0]!r} occurs more than once; rename one")
            line = reader.line_num + 1
            for row in reader:
                self._rows.append((line, row))
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{path}:{line}: no CSV from here on ({error})") from error

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        return f"{self._name}:{self._rows[index][0]}"

    def row(self, index: int) -> Row:
        row = self._rows[index][1]
        if None in row or None in row.values():
            raise BadSample("wrong number of columns", f"{self.key(index)}: more or fewer fields than column names")
        return row


class TextLines:
    """The lines of a text file that are not empty, in the column ``text``."""

    def __init__(self, path: Path, name: str) -> None:
        """Reads the file.

        Raises:
            ValueError: It is no UTF-8 text.
        """
        self.folder = path.parent
        self._name = name
        lines = enumerate(read_text(path).split("\n"), start=1)
        self._lines = [(number, line.strip()) for number, line in lines if line.strip()]

    def __len__(self) -> int:
        return len(self._lines)

    def key(self, index: int) -> str:
        return f"{self._name}:{self._lines[index][0]}"

    def row(self, index: int) -> Row:
        return {"text": self._lines[index][1]}


class _Joined:
    """Several concatenated tables."""

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


def _open(path: str, split: str) -> list[Table]:
    """Returns the tables of one part of a path."""
    if Path(path).expanduser().is_file():
        files = expand_paths(path, EXPECTED)
        return _open_files(files, shown_names(files))
    from unigrpo.data import hub  # noqa: PLC0415  # `datasets` takes a second to import, which text files need not wait for

    if _is_on_hub(path):
        return [hub.open_hub(path, split, EXPECTED)]
    found = hub.resolve_folder(path, split)
    if isinstance(found, hub.ArrowTable):
        return [found]
    if found is not None:
        return _open_files(found, {file: f"{path}[{split}]/{file.name}" for file in found})
    files = expand_paths(path, EXPECTED)
    return _open_files(files, shown_names(files))


def _is_on_hub(path: str) -> bool:
    """Whether one part of a path can only be a name on the Hub, since no such path exists and it is not like a
    path."""
    looks_like_path = is_table_name(path) or path.startswith((".", "/", "~"))
    places = (Path(path).expanduser(), Path(path.rpartition(":")[0] or path).expanduser())
    return not looks_like_path and not any(place.is_dir() for place in places) and not places[0].is_file()


def shown_names(files: list[Path]) -> dict[Path, str]:
    """Returns names of files for messages: the last part of the path, with its folder if two are the same."""
    names = [file.name for file in files]
    return {file: file.name if names.count(file.name) == 1 else f"{file.parent.name}/{file.name}" for file in files}


def _open_files(files: list[Path], names: Mapping[Path, str]) -> list[Table]:
    return [_open_file(file, names[file]) for file in files]


def _open_file(path: Path, name: str) -> Table:
    ending = Path(path.name.removesuffix(GZIP)).suffix
    if path.is_dir() or not is_table_name(path.name):
        raise DataError(f"{path}: expected a name that ends in one of {', '.join(ENDINGS)}, or a text's in {GZIP}")
    if ending in (".jsonl", ".ndjson"):
        return JsonLines(path, name)
    if ending == ".json":
        return JsonList(path, name) if is_json_list(path) else JsonLines(path, name)
    if ending in (".csv", ".tsv"):
        return Csv(path, name, "\t" if ending == ".tsv" else ",")
    if ending == ".txt":
        return TextLines(path, name)
    from unigrpo.data.hub import open_arrow_file  # noqa: PLC0415  # as above

    return open_arrow_file(path, name)
