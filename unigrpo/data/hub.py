"""Hugging Face data sets: parquet and Arrow files, folders of `save_to_disk`, downloaded copies, and Hub names."""

from __future__ import annotations

import functools
import logging
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
from datasets import config as datasets_config
from datasets.arrow_reader import ArrowReader
from datasets.exceptions import DatasetGenerationError
from datasets.table import InMemoryTable
from pyarrow import parquet

from unigrpo import DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.files import Parts, is_table_name
from unigrpo.models.hub_errors import NOT_WRITABLE, cache_problem, download_problem

logger = logging.getLogger(__name__)
Row = Mapping[str, Any]
KEPT_GROUPS = 16
"""Number of row groups of parquet files that stay in the memory of a process."""
LARGE_GROUP = 20_000
"""Number of rows above which a row group is too large to be decoded for a single row."""
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""Names of data sets on the Hub; old ones have no owner."""
SAVED_MARKS = ("state.json", "dataset_dict.json")
"""Files that `save_to_disk` writes; one of them is there."""
PREPARED_MARK = "dataset_info.json"
"""File that `datasets` writes beside the tables of a download, and `save_to_disk` beside its state."""


class ArrowTable:
    """A data set that `datasets` maps into memory. Images stay encoded, and classes are given by name."""

    def __init__(self, data: datasets.Dataset, name: str, folder: Path, first: int = 0) -> None:
        """Wraps the rows.

        Args:
            data: The rows.
            name: Name for errors.
            folder: Folder to which image paths are relative.
            first: Number of the first row in errors.
        """
        self.folder = folder
        self._name = name
        self._first = first
        self._classes = {c: f for c, f in data.features.items() if isinstance(f, datasets.ClassLabel)}
        for column, feature in data.features.items():
            encoded = _encoded(feature)
            if encoded is not feature:
                data = data.cast_column(column, encoded)
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def key(self, index: int) -> str:
        return f"{self._name}[{self._first + index}]"

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


class ParquetTable:
    """A parquet file, of which the row groups that are in use are in memory; nothing is converted or written."""

    def __init__(self, path: Path, name: str) -> None:
        """Reads the positions of the row groups.

        Args:
            path: The file.
            name: Name for errors.

        Raises:
            ValueError: The file is not parquet.
        """
        self.folder = path.parent
        self._path, self._name = path, name
        try:
            with parquet.ParquetFile(path) as file:
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                datasets.Features.from_arrow_schema(file.schema_arrow)
        except (OSError, ValueError, TypeError, NotImplementedError) as error:  # pyarrow's own are among these
            raise DataError(f"{path}: no parquet file could be read ({type(error).__name__}: {error})") from error
        if max(sizes, default=0) > LARGE_GROUP:
            logger.warning(
                "%s: its row groups have up to %d rows, and reading one row at random decodes a whole group; write it "
                "again with groups of some 1000 rows",
                path,
                max(sizes),
            )
        self._parts = Parts(sizes)

    def __len__(self) -> int:
        return len(self._parts)

    def key(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def row(self, index: int) -> Row:
        number, place = self._parts.locate(index)
        return _row_group(self._path, number, self._name, index - place).row(place)


@functools.lru_cache(maxsize=KEPT_GROUPS)
def _row_group(path: Path, number: int, name: str, first: int) -> ArrowTable:
    """Returns a row group of a parquet file, whose first row has the number ``first`` in errors."""
    try:
        with parquet.ParquetFile(path) as file:
            data = datasets.Dataset(InMemoryTable(file.read_row_group(number)))
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise BadSample("unreadable row", f"{name}[{first}]: {type(error).__name__}: {message}") from error
    return ArrowTable(data, name, path.parent, first)


def open_arrow_file(path: Path, name: str) -> ArrowTable | ParquetTable:
    """Opens a parquet or Arrow file.

    Raises:
        ValueError: The file cannot be read.
    """
    if path.suffix != ".arrow":
        return ParquetTable(path, name)
    try:
        data = datasets.Dataset.from_file(str(path))
    except Exception as error:  # pyarrow and datasets each raise their own kinds
        raise DataError(f"{path}: no arrow file could be read ({_reason(error)})") from error
    return ArrowTable(data, name, path.parent)


def resolve_folder(path: str, split: str) -> ArrowTable | list[Path] | None:
    """Returns the content of a folder: rows of `save_to_disk` or of a download in the cache of the Hub, or the files
    of a split; None if the path is no folder.

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
    if (folder / PREPARED_MARK).is_file():
        return _prepared(folder, split)
    files = _files_of_split(folder, configuration, split)
    if files:
        return files
    try:
        data = _load(str(folder), configuration, split)
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        raise DataError(f"{path}: no data set could be loaded (split {split!r}): {_reason(error)}") from error
    return ArrowTable(data, f"{path}[{split}]", folder)


def open_hub(name: str, split: str, files: str) -> ArrowTable:
    """Opens a data set of the Hub, downloaded or found among earlier downloads.

    Args:
        name: ``owner/name`` or ``owner/name:configuration``.
        split: Split of the data set.
        files: Description of other possible names, for the error.

    Raises:
        ValueError: The data set cannot be loaded.
    """
    return _prepared(download(name, files), split, name)


@functools.cache
def download(name: str, files: str) -> Path:
    """Returns the folder in the cache of the Hub (``HF_HOME``) to which a data set was downloaded, now or earlier.

    A process asks the Hub only once for each name. :func:`resolve_folder` opens the folder without the Hub.

    Args:
        name: ``owner/name`` or ``owner/name:configuration``.
        files: What else the name could have been, for the error.

    Raises:
        ValueError: It cannot be downloaded.
    """
    repository, _, configuration = name.partition(":")
    if not HUB_NAME.fullmatch(repository):
        raise DataError(f"{name}: no file here ({Path.cwd()}; {files}), and data sets of the Hub look like owner/name")
    logger.info("%s: looking for it on the Hub", name)
    try:
        builder = datasets.load_dataset_builder(repository, configuration or None)
        builder.download_and_prepare()
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        said = _configurations(error) or download_problem(_cause(error), repository, "dataset")
        raise DataError(f"{name}: no file here ({Path.cwd()}; {files}), and no data set of the Hub: {said}") from error
    return Path(builder.cache_dir)


def _prepared(folder: Path, split: str, name: str = "") -> ArrowTable:
    """Returns a split of a download that `datasets` has converted; without a name, errors use that of `datasets`."""
    try:
        info = datasets.DatasetInfo.from_directory(str(folder))
        data = datasets.Dataset(
            **ArrowReader(str(folder), info).read(info.dataset_name, split, (info.splits or {}).values())
        )
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        raise DataError(f"{name or folder}: no rows of the split {split!r} ({_reason(error)})") from error
    return ArrowTable(data, f"{name or info.dataset_name}[{split}]", Path())


def _saved(folder: Path, split: str) -> ArrowTable:
    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        raise DataError(f"{folder}: not what save_to_disk writes ({_reason(error)})") from error
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise DataError(f"{folder}: no split {split!r}; it has {sorted(data)}")
        data = data[split]
    return ArrowTable(data, f"{folder}[{split}]", folder)


def _files_of_split(folder: Path, configuration: str, split: str) -> list[Path]:
    """Returns the table files of a split as `datasets` finds them; [] if its rows are not in such files, as image
    folders."""
    try:
        with tempfile.TemporaryDirectory() as cache:  # a builder locks its cache, and HF_HOME may be read-only
            builder = datasets.load_dataset_builder(str(folder), configuration or None, cache_dir=cache)
        found = builder.config.data_files
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        if configuration and (folder / configuration).is_dir():  # a copy without the README that names configurations
            return _files_of_split(folder / configuration, "", split)
        raise DataError(f"{folder}: no data set could be found in this folder ({_reason(error)})") from error
    names = {str(name): [Path(file) for file in files] for name, files in (found or {}).items()}
    tables = {name: [file for file in files if is_table_name(file.name)] for name, files in names.items()}
    if not any(tables.values()):
        return []
    if split not in tables:
        raise DataError(f"{folder}: no split {split!r}; it has {sorted(tables)}")
    return tables[split]


def _load(path: str, configuration: str, split: str) -> datasets.Dataset:
    data = datasets.load_dataset(path, configuration or None, split=split)
    assert isinstance(data, datasets.Dataset)
    return data


def _cause(error: BaseException) -> BaseException:
    """Returns the cause of an error that does not describe it itself."""
    if isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _reason(error: Exception) -> str:
    """Returns the message of an error of `datasets` on one line."""
    found = _cause(error)
    if isinstance(found, OSError) and found.errno in NOT_WRITABLE and _is_of_cache(found):
        return cache_problem(found, "dataset")
    return _configurations(error) or f"{type(found).__name__}: {' '.join(str(found).split())}"


def _is_of_cache(error: OSError) -> bool:
    """Whether an error is about the cache of `datasets`, and not about a file of the user."""
    cache, path = Path(datasets_config.HF_DATASETS_CACHE), Path(error.filename or "")
    return not error.filename or path.is_relative_to(cache) or cache.is_relative_to(path)


def _configurations(error: Exception) -> str:
    """Returns the configurations of a data set if one of them must be named; otherwise an empty text."""
    several = re.search(r"available configs: \[(.*?)\]", " ".join(str(error).split()))
    if several is None:
        return ""
    return f"it has the configurations {several[1]}; name one behind a colon, as in NAME:CONFIGURATION"


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
