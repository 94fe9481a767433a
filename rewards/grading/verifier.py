"""A process of its own compares expressions, so that a comparison that never ends can be ended."""

from __future__ import annotations

import signal
import sys
import threading

from rewards.runtime.process import DeadlineMissed, HostProcess, ProcessFailed

WALL_LIMIT = 300.0
"""Seconds of wall-clock time for one comparison and the start of its process, even where all processors are busy."""
COMPARISONS_PER_PROCESS = 5000
"""Comparisons before a fresh process, because the caches of sympy grow."""


class VerifierUnavailable(RuntimeError):
    """The process cannot start at all, so that no answer can be compared."""


class Verifier:
    """One process that compares expressions; it starts when it is first needed, and threads may share it."""

    def __init__(self, deadline: float = 2.0, wall_limit: float = WALL_LIMIT) -> None:
        """Sets the limits of one comparison: `deadline` in CPU seconds, `wall_limit` in wall-clock seconds."""
        self._deadline, self._wall_limit = deadline, wall_limit
        self._process: HostProcess | None = None
        self._lock = threading.RLock()
        self._num_compared = 0

    def __call__(self, gold: str, answer: str) -> bool:
        """Returns whether two LaTeX expressions, or two relations, are equal.

        Raises:
            DeadlineMissed: The comparison has reached one of its limits; another process takes over.
            ProcessFailed: There is no outcome for another reason.
            VerifierUnavailable: The process does not start, for example because math-verify is not installed.
        """
        with self._lock:
            process = self._process
            if not process or process.status is not None or self._num_compared >= COMPARISONS_PER_PROCESS:
                process = self._renewed()
            self._num_compared += 1
            try:
                return process.call("equal", gold, answer, seconds=self._wall_limit)
            except ProcessFailed as error:
                process.kill()
                status = process.status or 0
                if self._num_compared == 1 and status > 0:
                    raise VerifierUnavailable(
                        f"the process that compares expressions did not start (status {status}); is "
                        f"math-verify==0.9.0 installed for {sys.executable}?"
                    ) from error
                self._renewed()  # it starts while other answers are compared
                if status == -signal.SIGPROF:
                    raise DeadlineMissed(f"has spent the {self._deadline} s of CPU time of a comparison") from error
                raise
            except ValueError as error:
                raise ProcessFailed(f"raised {error} in the comparison with {answer[:100]!r}") from error

    def load(self) -> None:
        """Starts the process and waits until it answers; VerifierUnavailable is raised if it does not start."""
        self("1", "1")

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            if self._process:
                self._process.kill()
            self._process = None

    def __reduce__(self) -> tuple[type[Verifier], tuple[float, float]]:
        return Verifier, (self._deadline, self._wall_limit)

    def _renewed(self) -> HostProcess:
        """Ends the process, if there is one, and starts another one."""
        self.close()
        self._process, self._num_compared = HostProcess("rewards.grading.symbolic:Comparison", self._deadline), 0
        return self._process
