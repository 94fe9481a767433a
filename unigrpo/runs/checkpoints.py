"""Checkpoints on disk: each is written under another name and then renamed, so that an incomplete one is never loaded.

``<path>/step_00000020/`` holds what the workers wrote, and ``complete.json`` with the trainer's state and the size and
checksum of every file. ``best.json`` names the best checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from unigrpo import CheckpointError
from unigrpo.config import BaseRunConfig
from unigrpo.config.typed_files import WrongContent, json_content, read_json, replace_text
from unigrpo.runs.errors import check_room, output_errors

logger = logging.getLogger(__name__)

COMPLETE_FILE = "complete.json"
BEST_FILE = "best.json"
CHECKSUM_THREADS = 8
"""Number of files whose checksums are computed in parallel."""
BLOCK_BYTES = 2**24


class _Size(TypedDict):
    bytes: int


class File(_Size, total=False):
    """Size and checksum of a file."""

    sha256: str


class _State(TypedDict, total=False):
    num_policy_ranks: int


class Mark(TypedDict):
    """The content of ``complete.json``."""

    step: int
    state: _State
    files: dict[str, int | File]
    """Size and checksum of each file by its relative path; version 0.1 wrote the size alone."""


class Best(TypedDict):
    """The content of ``best.json``."""

    checkpoint: str
    metric: float


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    step: int
    """Number of steps that were finished when it was written."""
    state: dict[str, Any]
    """State of the trainer."""


def checkpoint_path(config: BaseRunConfig) -> Path:
    """Returns the folder of the checkpoints of a run."""
    return Path(config.ckpt.path or Path(config.run_dir) / "checkpoints").resolve()


class CheckpointStore:
    """The checkpoints of a run: the last ``max_num`` and the best."""

    def __init__(self, path: Path, max_num: int, *, expected_bytes: int = 0) -> None:
        """Opens the folder.

        Args:
            path: Folder of all checkpoints.
            max_num: Number of latest checkpoints to keep.
            expected_bytes: Size of a checkpoint before the first is written, whose size is then taken; 0 if unknown.
        """
        self.path = path
        self._max_num = max_num
        self._expected_bytes = expected_bytes
        self._intact: set[Path] = set()
        """Checkpoints whose checksums this process has computed or compared."""

    def save(
        self, step: int, state: dict[str, Any], write: Callable[[Path], None], metric: float | None = None
    ) -> Path:
        """Writes a checkpoint, then deletes those that are no longer kept.

        Args:
            step: Number of finished steps.
            state: State of the trainer, as JSON values.
            write: Writes the workers' files into a folder; every rank has finished when it returns.
            metric: Value that decides which checkpoint is the best; higher is better.

        Raises:
            OutputError: The checkpoint could not be written. Its files are deleted, as after any other error.
        """
        final = self.path / _name(step)
        partial = self.path / f".writing_{_name(step)}"
        for leftover in self.path.glob(".writing_*"):
            shutil.rmtree(leftover)
        what = f"the checkpoint of step {step}"
        if not self._intact:  # a directory that is deleted later in the run stays so
            with output_errors(what, self.path):
                self.path.mkdir(parents=True, exist_ok=True)
        with output_errors(what, self.path):
            partial.mkdir()
            try:
                check_room(partial, self._expected_bytes)
                write(partial)
                mark = {"step": step, "metric": metric, "state": state, "files": _described(partial)}
                replace_text(partial / COMPLETE_FILE, json.dumps(mark, indent=1))
                if final.exists():  # the run was resumed from an older step
                    shutil.rmtree(final)
                os.rename(partial, final)
            except Exception:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            self._expected_bytes = sum(file["bytes"] for file in mark["files"].values())
            self._intact.add(final)
            if metric is not None and metric > best_checkpoint(self.path)[1]:
                best = {"checkpoint": final.name, "metric": metric}
                replace_text(self.path / BEST_FILE, json.dumps(best, indent=1))
            self._rotate()
        return final

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Yields a new folder beside the checkpoints, which all workers can read; it is deleted after the context."""
        folder = self.path / f".scratch_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        with output_errors(f"the folder {folder.name}", self.path):
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """Returns the newest complete checkpoint, or None if there is no checkpoint.

        Raises:
            CheckpointError: There are checkpoints, but none is complete; starting anew would lose the run. Or the name
                of the best checkpoint cannot be read.
        """
        problems: list[str] = []
        best_checkpoint(self.path)
        for folder in reversed(saved_steps(self.path).values()):
            problem = "" if folder in self._intact else _problem(folder)
            if not problem:
                self._intact.add(folder)
                return _opened(folder)
            logger.warning("skipping checkpoint %s: %s", folder, problem)
            problems.append(f"{folder.name}: {problem}")
        if problems:
            raise CheckpointError(
                f"{self.path}: no checkpoint is complete ({'; '.join(problems)}); restore the files, or start a new "
                "run in another --run_dir"
            )
        return None

    def _rotate(self) -> None:
        for folder in list(saved_steps(self.path).values())[: -self._max_num]:
            if folder.name != best_checkpoint(self.path)[0]:
                shutil.rmtree(folder)


def saved_steps(path: Path) -> dict[int, Path]:
    """Returns the folders of all checkpoints by their steps in ascending order, complete or not.

    Folders with other names, such as copies that a user made, are not among them.
    """
    steps = {folder.name.removeprefix("step_"): folder for folder in sorted(path.glob("step_*"))}
    return {int(step): folder for step, folder in steps.items() if step.isdecimal()}


def best_checkpoint(path: Path) -> tuple[str, float]:
    """Returns the name of the folder of the best checkpoint, and its metric; an empty name if none was compared."""
    if not (path / BEST_FILE).exists():
        return "", float("-inf")
    advice = "restore the file, or delete it; then none of the present checkpoints is kept as the best"
    best = read_json(path / BEST_FILE, Best, CheckpointError, advice)
    return best["checkpoint"], float(best["metric"])


def read(folder: Path) -> Checkpoint:
    """Opens one checkpoint.

    Raises:
        ValueError: The checkpoint is not complete.
    """
    problem = _problem(folder)
    if problem:
        raise CheckpointError(f"{folder}: not a complete checkpoint: {problem}; name another one or start without it")
    return _opened(folder)


def _opened(folder: Path) -> Checkpoint:
    mark = _mark(folder)
    return Checkpoint(folder=folder, step=mark["step"], state={**mark["state"]})


def _problem(folder: Path) -> str:
    """Returns what is wrong with a checkpoint folder; empty if it is complete."""
    try:
        mark = _mark(folder)
    except WrongContent as error:
        return f"{COMPLETE_FILE}: {error}"
    if folder.name.removeprefix("step_").isdecimal() and folder.name != _name(mark["step"]):
        return f"{COMPLETE_FILE} is that of step {mark['step']}"
    files: dict[str, Any] = {
        name: {"bytes": each} if isinstance(each, int) else each for name, each in mark["files"].items()
    }
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}"
    known = {name: expected["sha256"] for name, expected in files.items() if "sha256" in expected}
    for name, found in zip(known, _checksums([folder / name for name in known]), strict=True):
        if found != known[name]:
            return f"{name} is damaged: its content has changed since it was written"
    return ""


def _mark(folder: Path) -> Mark:
    return json_content(folder / COMPLETE_FILE, Mark)


def _described(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns size and checksum of every file of a folder by its relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": checksum}
        for path, checksum in zip(paths, _checksums(paths), strict=True)
    }


def _checksums(paths: list[Path]) -> list[str]:
    with ThreadPoolExecutor(CHECKSUM_THREADS) as threads:
        return list(threads.map(_checksum, paths))


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _name(step: int) -> str:
    return f"step_{step:08d}"
