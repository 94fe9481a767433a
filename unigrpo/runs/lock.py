"""A lock on the directories that a run writes, so that two runs never write into the same one."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from unigrpo import ConfigError

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path, setting: str) -> Iterator[None]:
    """Keeps other runs out of a directory while the block runs. The end of this process ends the lock in any case.

    Args:
        folder: The directory. It is created, and deleted again if the block leaves it empty.
        setting: Name of the setting that chooses the directory, for messages.

    Raises:
        ValueError: Another run holds the lock, or the directory cannot be written.
    """
    was_there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(folder / LOCK_FILE)
    except BlockingIOError as error:
        raise ConfigError(
            f"{setting} {folder} is in use by another run ({_holder(folder / LOCK_FILE)}); wait for its end, stop it, "
            f"or choose another {setting}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{setting} {folder} cannot be written ({error}); choose another {setting}") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the directory may be gone, or read-only by now
            (folder / LOCK_FILE).unlink()
            if not was_there:
                folder.rmdir()  # fails if the run has written something
        file.close()


def _acquire(path: Path) -> TextIOWrapper:
    """Opens and locks a file and writes into it who holds the lock. Raises BlockingIOError if another process does."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise
        except OSError as error:  # a file system without locks
            logger.warning("%s cannot be locked (%s); do not start a second run there", path.parent, error)
        if _is_current(file, path):
            break
        file.close()  # the run before deleted this file as it ended
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    file.flush()
    return file


def _is_current(file: TextIOWrapper, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip() or "it has just started"
    return "it is just ending"
