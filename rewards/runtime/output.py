"""Limits the output of a reward, so that it neither fills a disk nor hides the lines of the run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

MOST = 100_000
"""Number of characters that a reward may print in one call, to each of standard output and standard error."""


class LimitedOutput:
    """A text stream of which only the beginning of every call is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = MOST

    def renew(self) -> None:
        """Begins another call, which may again print :data:`MOST` characters."""
        self._left = MOST

    def write(self, text: str) -> int:
        """Writes what may still be written, and says once that the rest is left out."""
        if self._left > 0:
            self._stream.write(text[: self._left])
            if len(text) > self._left:
                self._stream.write(f"\n... a call may print {MOST:,} characters; the rest is left out\n")
            self._left -= len(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes lines as :meth:`write` does."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def limit_output() -> None:
    """Limits what Python code prints in this process. Output of C libraries and of other programs is not counted."""
    sys.stdout, sys.stderr = LimitedOutput(sys.stdout), LimitedOutput(sys.stderr)  # type: ignore[assignment]


def renew_output() -> None:
    """Lets the next call print again, if the output of this process is limited."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, LimitedOutput):
            stream.renew()
