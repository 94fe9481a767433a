"""Signals that stop a run, which a scheduler sends before it ends the job."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from types import FrameType

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGTERM comes from Slurm, Kubernetes and ``ray job stop``, SIGUSR1 from Slurm's ``--signal=USR1@SECONDS``."""


class RunStopped(Exception):
    """A signal has ended the run after a whole step, and the checkpoint of that step is written."""


class StopRequest:
    """Records a stop signal, so that the run can finish its step and save a checkpoint before it ends."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        """The first stop signal that came."""
        self._is_delayed = False
        self._process = os.getpid()

    @property
    def ending_signal(self) -> signal.Signals:
        """The signal that ended the run: the one that came, or SIGINT, which Python handles itself."""
        return self.received or signal.SIGINT

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handles stop signals while the block runs. To be entered in the main thread, also after Ray has started.

        A signal raises KeyboardInterrupt, which Ray's calls pass on, unlike other exceptions. Within :meth:`delayed`,
        the first signal is only noted.
        """
        before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def delayed(self) -> Iterator[None]:
        """Delays a signal until the end of the block, unless a second one comes."""
        self._is_delayed = True
        try:
            yield
        finally:
            self._is_delayed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked process ends as without this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        is_first, self.received = self.received is None, self.received or signal.Signals(number)
        if not (is_first and self._is_delayed):
            raise KeyboardInterrupt
        logger.warning(
            "%s came: the run finishes this step, saves a checkpoint and ends; a second signal ends it at once",
            self.received.name,
        )
