"""Random access to the samples of webdataset tars."""

from __future__ import annotations

import hashlib
import io
import logging
import multiprocessing
import os
import tarfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from webdataset.tariterators import base_plus_ext

from unigrpo import DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.files import Parts

logger = logging.getLogger(__name__)
NUM_THREADS = 16
"""Number of tars whose headers are read at the same time."""


@dataclass(frozen=True, kw_only=True)
class TarSample:
    """The members of one sample."""

    tar: Path
    key: str
    """Path of the members without their endings."""
    members: dict[str, bytes]
    """Content by ending, in lower case and without the dot."""


def is_litter(name: str) -> bool:
    """Whether a member of a tar was added by macOS or webdataset and is not part of a sample."""
    path = PurePosixPath(name)
    is_meta = len(path.parts) == 1 and name.startswith("__") and name.endswith("__")
    return is_meta or path.name.startswith("._") or path.name == ".DS_Store" or "__MACOSX" in path.parts


class TarSamples:
    """The samples of several tars, by number.

    Consecutive members with the same path up to the first dot are one sample, as in webdataset, which can only read
    tars from start to end. Members that macOS adds are ignored. The stored position of a sample takes 16 bytes.

    A tar that ends early, lacks a header where one is expected, or has content after its end, has one more sample,
    which is unusable.
    """

    def __init__(self, paths: list[Path], index_folder: str = "") -> None:
        """Reads the headers of all tars.

        Args:
            paths: The tars.
            index_folder: Folder in which the positions are stored for a later start; empty stores nothing.

        Raises:
            ValueError: A file is not a tar, is compressed, or the tars have no sample.
        """
        self._paths = paths
        with ThreadPoolExecutor(NUM_THREADS) as pool:  # on network storage most of the time is waiting
            self._spans = list(pool.map(partial(_remembered_spans, folder=index_folder), paths))
        self._parts = Parts([len(spans) for spans in self._spans])
        if not len(self._parts):
            raise DataError(f"{paths[0]}: no sample in {len(paths)} tars; name members like 0001.jpg, 0001.txt")

    def __len__(self) -> int:
        return len(self._parts)

    def read(self, index: int) -> TarSample:
        """Returns one sample.

        Raises:
            BadSample: The tar ends in it, or is broken there.
        """
        part, place = self._parts.locate(index)
        path, (start, end) = self._paths[part], self._spans[part][place].tolist()
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(end - start)
        members: dict[str, bytes] = {}
        key = ""
        try:
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
                for member in tar:
                    opened, (base, ending) = tar.extractfile(member), base_plus_ext(member.name)
                    if opened is not None and base and ending is not None and not is_litter(member.name):
                        key = base
                        members[ending.lower()] = opened.read()
        except tarfile.TarError:
            members = {}
        if not members:
            raise BadSample("truncated tar", f"{path}:{key or 'end'}: the tar ends early or is broken at byte {start}")
        return TarSample(tar=path, key=key, members=members)


def index_tars(paths: Sequence[Path], folder: str, num_workers: int) -> Iterator[int]:
    """Stores the positions of the samples in tars, for sources with this ``index_folder``.

    Args:
        paths: The tars. Those whose positions are stored already are read from there.
        folder: Folder of the positions.
        num_workers: Number of processes.

    Yields:
        The number of samples of each tar, in the order of ``paths``.

    Raises:
        ValueError: A file is not a tar.
    """
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for spans in pool.map(partial(_remembered_spans, folder=folder), paths):
            yield len(spans)


def index_file(path: Path, folder: str) -> Path:
    """Returns where the positions of a tar are stored: a file that is named after the tar, its size and its time."""
    found = path.stat()
    name = repr((str(path.absolute()), found.st_size, found.st_mtime_ns))
    digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    return Path(folder).expanduser() / f"{path.stem}-{digest}.npy"


def _remembered_spans(path: Path, folder: str) -> np.ndarray:
    """Returns the spans from the file of :func:`index_file`, which is written if it does not exist."""
    if not folder:
        return _spans(path)
    index = index_file(path, folder)
    if index.is_file():
        return np.load(index)
    spans = _spans(path)
    index.parent.mkdir(parents=True, exist_ok=True)
    part = index.with_suffix(f".{os.getpid()}.{threading.get_ident()}.part")
    with part.open("wb") as file:
        np.save(file, spans)
    part.replace(index)  # whole or not at all, also where several ranks write it
    return spans


def _spans(path: Path) -> np.ndarray:
    """Returns the first and one-past-last byte of each sample, int64 (N, 2)."""
    spans: list[tuple[int, int]] = []
    last_key: str | None = None
    endings: set[str] = set()
    nameless: list[str] = []
    end = 0
    try:
        with tarfile.open(path, mode="r:") as tar:
            try:
                for member in tar:
                    start, end = member.offset, tar.offset
                    base, ending = base_plus_ext(member.name)
                    if not member.isreg() or base is None or ending is None or is_litter(member.name):
                        nameless += [member.name] if member.isreg() and not is_litter(member.name) else []
                        continue
                    if base == last_key and ending.lower() not in endings:
                        spans[-1] = (spans[-1][0], end)
                    else:
                        spans.append((start, end))
                        endings.clear()
                    last_key = base
                    endings.add(ending.lower())
            except tarfile.TarError as error:
                logger.warning("%s: %s", path, error)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{path}: no tar could be read (a .tgz must be unpacked): {type(error).__name__}: {error}"
        ) from error
    if nameless:
        logger.warning("%s: %d members are no part of a sample, such as %s", path, len(nameless), nameless[0])
    return np.array(_with_lost_end(path, spans, end), dtype=np.int64).reshape(-1, 2)


def _with_lost_end(path: Path, spans: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """Returns the samples, with an unusable one at the end unless the tar ends with zeros after the last member."""
    size = path.stat().st_size
    if spans and spans[-1][1] > size:
        logger.warning("%s: ends early, at byte %d", path, size)
        return spans
    with path.open("rb") as file:
        file.seek(end)
        if len(rest := file.read(tarfile.BLOCKSIZE)) == tarfile.BLOCKSIZE:
            while rest and not any(rest):
                rest = file.read(tarfile.RECORDSIZE)
            if not rest:
                return spans
    logger.warning("%s: broken from byte %d of %d on; the rest of the file is lost", path, end, size)
    return [*spans, (end, max(size, end + 1))]
