"""Samples that cannot be used, and the error when there are too many of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from unigrpo import DataError
from unigrpo.config.checks import within

logger = logging.getLogger(__name__)
MAX_SHOWN = 5
"""Largest number of problems that one error lists."""
MAX_CHARACTERS = 500
"""Largest length of a problem's message; the middle of a longer one is left out, since values may have any length."""
MAX_NAMES = 40
"""Largest number of columns that one message names."""


class BadSample(Exception):
    """A sample that cannot be used."""

    def __init__(self, reason: str, message: str) -> None:
        """Describes the problem.

        Args:
            reason: A few words that are the same for all samples with this problem, which are counted together.
            message: A description with file and line or member, which is logged.
        """
        super().__init__(message)
        self.reason = reason


class BadRows:
    """Skips, logs and counts the unusable rows of prompt files. Too many of them are an error."""

    def __init__(self, max_fraction: float = 0.01) -> None:
        """Starts without bad rows.

        Args:
            max_fraction: Largest fraction of bad rows of each file.

        Raises:
            ConfigError: `max_fraction` is not a fraction.
        """
        within("data.max_bad_fraction", max_fraction, 0.0, 1.0)
        self._max_fraction = max_fraction
        self._rows: Counter[str] = Counter()
        self._problems: dict[str, list[tuple[str, str]]] = {}
        self._num_logged: Counter[str] = Counter()

    def add_rows(self, file: str, number: int) -> None:
        """Counts rows of a file, good and bad ones."""
        self._rows[file] += number

    def add(self, file: str, reason: str, message: str) -> None:
        """Counts a bad row.

        Args:
            file: The file or data set.
            reason: A few words that are the same for all rows with this problem.
            message: A description with file and line.
        """
        self._problems.setdefault(file, []).append((reason, shortened(message)))

    def check(self) -> None:
        """Logs the bad rows since the last call.

        Raises:
            ValueError: Some file has too many of them; the message lists the first ones.
        """
        too_many = [f for f, found in self._problems.items() if len(found) > self._max_fraction * self._rows[f]]
        for file, found in self._problems.items():
            for reason, message in found[self._num_logged[file] :] if file not in too_many else ():
                logger.warning("skipped (%s): %s", reason, message)
            self._num_logged[file] = len(found)
        if not too_many:
            return
        messages = [message for file in too_many for _, message in self._problems[file]]
        counts = [f"{len(self._problems[file])} of {self._rows[file]} rows of {file}" for file in too_many]
        raise DataError(
            f"{listed(messages)}\n{' and '.join(counts)} cannot be used, more than data.max_bad_fraction "
            f"{self._max_fraction:g} allows; repair the data or raise it"
        )


def shortened(message: str) -> str:
    """Returns a message, without its middle if it is long, so that the place and the advice are kept."""
    half = MAX_CHARACTERS // 2
    return message if len(message) <= MAX_CHARACTERS else f"{message[:half]} ... {message[-half:]}"


def shown_columns(names: Iterable[object]) -> str:
    """Returns the names of columns for a message: sorted, not too many, and long ones without their ends.

    >>> shown_columns(["question", "a" * 100])
    "['aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'question']"
    """
    found = sorted(map(str, names))
    more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
    return f"{[name[:40] for name in found[:MAX_NAMES]]}{more}"


def listed(messages: Sequence[str]) -> str:
    """Returns the first messages, one per line, and the number of the others."""
    more = f"\n... and {len(messages) - MAX_SHOWN} more" if len(messages) > MAX_SHOWN else ""
    return "\n".join(messages[:MAX_SHOWN]) + more


def raise_problems(problems: Sequence[str]) -> None:
    """Raises one ValueError for all problems, if there are any; it lists the first ones."""
    if problems:
        raise DataError(listed(problems))
