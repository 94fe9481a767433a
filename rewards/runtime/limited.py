"""A function in its own process, whose calls have limits of CPU time and memory, since they might not end."""

from __future__ import annotations

import os
import pkgutil
import resource
import signal
import sys
import threading
from typing import Any

from rewards.runtime.process import DeadlineMissed, HostProcess, ProcessFailed

MEMORY = 2 * 1024**3
"""Number of bytes of address space that the process may have."""
CALLS_PER_PROCESS = 5000
"""Calls before a fresh process, because a library such as sympy keeps what it has computed."""


class ProcessUnavailable(RuntimeError):
    """The process cannot start at all, so that no call has an outcome."""


class LimitedFunction:
    """A function whose process starts when it is first called and is replaced when it fails; threads may share it."""

    def __init__(
        self, name: str, example: tuple[Any, ...], requires: str, cpu_seconds: float, wall_seconds: float = 300.0
    ) -> None:
        """Names the function, and sets the limits of a call.

        Args:
            name: The function as ``module:function``.
            example: Arguments of a call without limits that loads what the function needs.
            requires: Package without which the function cannot be imported.
            cpu_seconds: CPU time of one call.
            wall_seconds: Time of one call and of the start of the process, even where all processors are busy.
        """
        self._given = (name, example, requires, cpu_seconds, wall_seconds)
        self._wall_seconds = wall_seconds
        self._process: HostProcess | None = None
        self._lock = threading.RLock()
        self._num_calls = 0

    def __call__(self, *arguments: Any) -> Any:
        """Returns the value of the function.

        Raises:
            DeadlineMissed: The call has reached one of its limits; another process takes over.
            ProcessFailed: There is no outcome for another reason.
            ProcessUnavailable: The process does not start, for example because a package is not installed.
        """
        with self._lock:
            process = self._process
            if not process or process.status is not None or self._num_calls >= CALLS_PER_PROCESS:
                process = self._renewed()
            self._num_calls += 1
            try:
                return process.call("call", *arguments, seconds=self._wall_seconds)
            except ProcessFailed as error:
                process.kill()
                status = process.status or 0
                if self._num_calls == 1 and status > 0:
                    name, _, requires, *_ = self._given
                    raise ProcessUnavailable(
                        f"the process of {name} did not start (status {status}); is {requires} installed for "
                        f"{sys.executable}?"
                    ) from error
                self._renewed()  # it starts while the caller goes on
                if status == -signal.SIGPROF:
                    raise DeadlineMissed("has spent its CPU time") from error
                raise
            except ValueError as error:
                raise ProcessFailed(f"raised {error} in a call with {arguments!r:.200}") from error

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            if self._process:
                self._process.kill()
            self._process = None

    def __reduce__(self) -> tuple[type[LimitedFunction], tuple[Any, ...]]:
        return LimitedFunction, self._given

    def _renewed(self) -> HostProcess:
        """Ends the process, if there is one, and starts another one."""
        self.close()
        name, example, _, cpu_seconds, _ = self._given
        host = "rewards.runtime.limited:LimitedHost"
        self._process, self._num_calls = HostProcess(host, name, example, cpu_seconds), 0
        return self._process


class LimitedHost:
    """The function in its process. SIGPROF ends the process where a call has spent its CPU time."""

    def __init__(self, name: str, example: tuple[Any, ...], cpu_seconds: float) -> None:
        """Limits this process, silences it, and calls the function once without the limit of its CPU time."""
        self._function, self._cpu_seconds = pkgutil.resolve_name(name), cpu_seconds
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        for printed in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), printed)
        self._function(*example)

    def call(self, *arguments: Any) -> Any:
        """Returns what the function returns."""
        signal.setitimer(signal.ITIMER_PROF, self._cpu_seconds)
        try:
            return self._function(*arguments)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
