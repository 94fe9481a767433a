"""Progress of a run: a bar in a terminal, and whole lines where the output goes to a file or to another program."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0
"""Shortest time between two lines; the last step always has one."""


@runtime_checkable
class Progress(Protocol):
    """Shows finished steps to the user."""

    def show(self, step: int, shown: Mapping[str, str]) -> None:
        """Shows a finished step with a few values."""
        ...

    def close(self) -> None:
        """Ends the display."""
        ...


def progress(title: str, num_steps: int, first_step: int = 0, unit: str = "step") -> Progress:
    """Returns the display that fits standard error.

    Args:
        title: Name of the kind of run.
        num_steps: Number of steps of the run.
        first_step: Number of steps that are finished already.
        unit: What is counted, if it is not steps.
    """
    kind = ProgressBar if sys.stderr.isatty() else ProgressLines
    return kind(title, num_steps, first_step, unit)


class ProgressBar:
    """A bar that is written again with every step."""

    def __init__(self, title: str, num_steps: int, first_step: int, unit: str) -> None:
        self._bar = tqdm(total=num_steps, initial=first_step, desc=title, unit=unit, mininterval=0, ascii=" #")

    def show(self, step: int, shown: Mapping[str, str]) -> None:
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class ProgressLines:
    """A line for a step, with the time that is left if the next steps take as long as those so far."""

    def __init__(self, title: str, num_steps: int, first_step: int, unit: str) -> None:
        self._title, self._num_steps, self._first_step, self._unit = title, num_steps, first_step, unit
        self._started = time.monotonic()
        self._written = -SECONDS_BETWEEN_LINES

    def show(self, step: int, shown: Mapping[str, str]) -> None:
        seconds = time.monotonic() - self._started
        if step < self._num_steps and seconds - self._written < SECONDS_BETWEEN_LINES:
            return
        self._written = seconds
        left = seconds / max(step - self._first_step, 1) * (self._num_steps - step)
        values = ": " + ", ".join(f"{name} {value}" for name, value in shown.items()) if shown else ""
        place = f"{self._unit} {step} of {self._num_steps}"
        sys.stderr.write(f"{self._title}: {place}{values}; {_duration(left)} left\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Does nothing, because every line is whole."""


def _duration(seconds: float) -> str:
    """Returns a duration in the unit that fits it.

    >>> [_duration(s) for s in (42.4, 600.0, 9000.0)]
    ['42 s', '10 min', '2.5 h']
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
