"""Error messages of a run that cannot write its results: what failed, why, and how to continue."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_BYTES = 16 * 2**20
"""Free space in bytes below which a disk is treated as full, since libraries often hide the error of a failed
write."""


class OutputError(RuntimeError):
    """The run cannot write to its directory."""


@contextlib.contextmanager
def output_errors(what: str, folder: Path) -> Iterator[None]:
    """Turns errors of the block that come from a directory or its disk into one line that says how to continue.

    Args:
        what: What is written, for the message.
        folder: Where it is written.

    Raises:
        OutputError: The operating system refused to write, or the block failed in any way while the disk is full, or
            the directory was deleted or moved while the block ran; that gives no error if a worker makes it anew.
    """
    with _opened(folder) as descriptor:
        try:
            yield
        except Exception as error:  # libraries and workers raise errors of their own
            cause = _cause(folder, error, _is_gone(folder, descriptor))
            if not cause:
                raise
            shown = " ".join(f"{type(error).__name__}: {error}".split())
            raise OutputError(f"{what} could not be written: {cause} ({shown})") from error
        if _is_gone(folder, descriptor):
            raise OutputError(f"{what} could not be kept: {_gone(folder)}")


def check_room(folder: Path, num_bytes: int) -> None:
    """Raises OSError for a full disk if a folder's disk has less room than this, before anything is written."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise OSError(errno.ENOSPC, f"{num_bytes / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """Opens an existing directory to recognize it later, since a worker may create a deleted one again."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_gone(folder: Path, descriptor: int | None) -> bool:
    """Returns whether a directory was deleted or moved since it was opened."""
    try:
        return descriptor is not None and not os.path.samestat(os.fstat(descriptor), folder.stat())
    except OSError:
        return True


def _gone(folder: Path) -> str:
    return f"{folder} was deleted or moved during the run; start again, and leave it where it is"


def _cause(folder: Path, error: Exception, is_gone: bool) -> str:
    """Returns what is wrong with the directory and what to do; empty if it is fine."""
    if is_gone or not folder.exists():
        return _gone(folder)
    free = shutil.disk_usage(folder).free
    go_on = "then start the same command again, which resumes from the last checkpoint"
    if getattr(error, "errno", None) in FULL or free < FULL_BYTES:
        return f"the disk of {folder} or its quota is full ({free / 1e9:.2f} GB are free); free some space, {go_on}"
    if isinstance(error, OSError):
        return f"{folder} cannot be written any more; see to its disk and permissions, {go_on}"
    return ""
