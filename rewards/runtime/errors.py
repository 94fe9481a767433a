"""Formats errors of users' code as one line that names the line of their file."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[2]
_OWN = (str(_PROJECT / "rewards"), str(_PROJECT / "unigrpo"))
_LIBRARIES = tuple({str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib")})

_NO_MEMORY = "this process has taken all the memory that it may; does the reward keep something of every call?"
MAX_CHARACTERS = 500
"""Length at which the message of an error is cut; that of a user's code may have any length."""


def describe(error: BaseException) -> str:
    """Returns type and message of an error, with file and line of the user's code that it comes from.

    The line is that of the innermost frame outside libraries and this project. For a reward in an installed package,
    it is the first frame of that package.

    >>> describe(ValueError("no gold"))
    'ValueError: no gold'
    """
    text = f"{type(error).__name__}: {_message(error)}".rstrip(": ")
    frame = _user_frame(error)
    return text if frame is None else f"{text} ({_shown(frame.filename)}:{frame.lineno})"


def _message(error: BaseException) -> str:
    """The message on one line, cut if it is long. Reading it may fail, since a user's class can define it."""
    try:
        text = str(error) or (_NO_MEMORY if isinstance(error, MemoryError) else "")
        message = " ".join(text[: 2 * MAX_CHARACTERS].split())
        return message if len(message) <= MAX_CHARACTERS else f"{message[:MAX_CHARACTERS]}..."
    except Exception as other:  # any __str__ may stand here
        return f"its message cannot be read ({type(other).__name__})"


def _user_frame(error: BaseException) -> traceback.FrameSummary | None:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_below(f.filename, _OWN)]
    of_user = [f for f in frames if not _is_below(f.filename, _LIBRARIES) and not f.filename.startswith("<")]
    of_package = [f for f in frames if "site-packages" in f.filename]
    return of_user[-1] if of_user else next(iter(of_package), None)


def _is_below(file: str, folders: tuple[str, ...]) -> bool:
    path = str(Path(file).resolve())
    return any(path.startswith(folder + os.sep) for folder in folders)


def _shown(file: str) -> str:
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative
