"""Hugging Face data sets: parquet and Arrow files, folders of `save_to_disk`, downloaded copies, and Hub names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError

from unigrpo import DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.files import is_table_name

Row = Mapping[str, Any]
SAVED_MARKS = ("dataset_info.json", "dataset_dict.json")
"""Files that `save_to_disk` writes."""


class ArrowTable:
    """A data set that `datasets` maps into memory. Images stay encoded, and classes are given by name."""

    def __init__(self, data: datasets.Dataset, name: str, folder: Path) -> None:
        """Wraps the rows.

        Args:
            data: The rows.
            name: Name for errors.
            folder: Folder to which image paths are relative.
        """
        self.folder = folder
        self._name = name
        self._classes = {c: f for c, f in data.features.items() if isinstance(f, datasets.ClassLabel)}
        for column, feature in data.features.items():
            encoded = _encoded(feature)
            if encoded is not feature:
                data = data.cast_column(column, encoded)
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def key(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def row(self, index: int) -> Row:
        try:
            row = dict(self._data[index])
        except (UnicodeDecodeError, OSError, ValueError) as error:  # pyarrow's own are among these
            message = str(error).splitlines()[0]
            raise BadSample("unreadable row", f"{self.key(index)}: {type(error).__name__}: {message}") from error
        return row | {column: self._class_name(column, row[column]) for column in self._classes}

    def _class_name(self, column: str, value: int | None) -> str | None:
        names = self._classes[column].names
        return names[value] if value is not None and 0 <= value < len(names) else None


def open_arrow_file(path: Path, name: str) -> ArrowTable:
    """Opens a parquet or Arrow file.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        if path.suffix == ".arrow":
            data = datasets.Dataset.from_file(str(path))
        else:
            data = datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # pyarrow and datasets each raise their own kinds
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise DataError(
            f"{path}: no {path.suffix[1:]} file could be read ({type(cause).__name__}: {cause})"
        ) from error
    assert isinstance(data, datasets.Dataset)
    return ArrowTable(data, name, path.parent)


def resolve_folder(path: str, split: str) -> ArrowTable | list[Path] | None:
    """Returns the content of a folder: rows of `save_to_disk`, or the files of a split; None if the path is no folder.

    Args:
        path: A folder, or ``folder:configuration``.
        split: Split of the data set.

    Raises:
        ValueError: The folder holds no such configuration or split, or no rows.
    """
    folder, configuration = Path(path).expanduser(), ""
    if not folder.is_dir():
        name, _, configuration = path.rpartition(":")
        folder = Path(name).expanduser()
        if not name or not folder.is_dir():
            return None
    if any((folder / mark).is_file() for mark in SAVED_MARKS):
        return _saved(folder, split)
    files = _files_of_split(folder, configuration, split)
    if files:
        return files
    data = _load(str(folder), configuration, split, f"{path}: no data set could be loaded")
    return ArrowTable(data, f"{path}[{split}]", folder)


def open_hub(name: str, split: str, files: str) -> ArrowTable:
    """Opens a data set of the Hub, downloaded or found among earlier downloads.

    Args:
        name: ``owner/name`` or ``owner/name:configuration``.
        split: Split of the data set.
        files: What else the name could have been, for the error.

    Raises:
        ValueError: The data set cannot be loaded.
    """
    repository, _, configuration = name.partition(":")
    problem = f"{name}: neither a file here ({Path.cwd()}; {files}) nor a data set that could be loaded"
    return ArrowTable(_load(repository, configuration, split, problem), f"{name}[{split}]", Path())


def _saved(folder: Path, split: str) -> ArrowTable:
    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        raise DataError(f"{folder}: not what save_to_disk writes ({type(error).__name__}: {error})") from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"{folder}: no split {split!r}; it has {sorted(data)}")
        data = data[split]
    return ArrowTable(data, f"{folder}[{split}]", folder)


def _files_of_split(folder: Path, configuration: str, split: str) -> list[Path]:
    """Returns the table files of a split as `datasets` finds them; [] if its rows are not in such files, as image
    folders."""
    try:
        found = datasets.load_dataset_builder(str(folder), configuration or None).config.data_files
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        raise DataError(
            f"{folder}: no data set could be found in this folder ({type(error).__name__}: {error})"
        ) from error
    names = {str(name): [Path(file) for file in files] for name, files in (found or {}).items()}
    tables = {name: [file for file in files if is_table_name(file.name)] for name, files in names.items()}
    if not any(tables.values()):
        return []
    if split not in tables:
        raise DataError(f"{folder}: no split {split!r}; it has {sorted(tables)}")
    return tables[split]


def _load(path: str, configuration: str, split: str, problem: str) -> datasets.Dataset:
    try:
        data = datasets.load_dataset(path, configuration or None, split=split)
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        raise DataError(f"{problem} (split {split!r}): {type(error).__name__}: {error}") from error
    assert isinstance(data, datasets.Dataset)
    return data


def _encoded(feature: Any) -> Any:
    """Returns the feature with images, audio and video as bytes; the same object if it has none."""
    if isinstance(feature, (datasets.Image, datasets.Audio, datasets.Video)):
        return type(feature)(decode=False)
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        inner = _encoded(feature.feature)
        return feature if inner is feature.feature else type(feature)(inner)
    if isinstance(feature, dict):
        inner = {name: _encoded(value) for name, value in feature.items()}
        return feature if all(inner[name] is value for name, value in feature.items()) else inner
    return feature
