"""A process of its own compares expressions, so that a comparison that never ends can be ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

DEADLINE = 2.0
"""CPU seconds for one comparison."""
WALL_LIMIT = 300.0
"""Seconds of wall-clock time for one comparison and the start of its process, even where all processors are busy."""
COMPARISONS_PER_PROCESS = 5000
"""Comparisons before a fresh process, because the caches of sympy grow."""
_ROOT = str(Path(__file__).parents[2])


class VerifierTimeout(Exception):
    """A comparison has spent its CPU time, or its process has been silent for too long."""


class VerifierError(Exception):
    """The process died, or the comparison raised an exception."""


class VerifierUnavailable(RuntimeError):
    """The process cannot start at all, so that no answer can be compared."""


class Verifier:
    """One process that compares expressions; it starts when it is first needed, and threads may share it."""

    def __init__(self, deadline: float = DEADLINE, wall_limit: float = WALL_LIMIT) -> None:
        """Sets the limits of one comparison: `deadline` in CPU seconds, `wall_limit` in wall-clock seconds."""
        self._deadline, self._wall_limit = deadline, wall_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._num_compared = 0

    def __call__(self, gold: str, answer: str) -> bool:
        """Returns whether two LaTeX expressions, or two relations, are equal.

        Raises:
            VerifierTimeout: The comparison has reached one of its limits; another process takes over.
            VerifierError: There is no outcome for another reason.
            VerifierUnavailable: The process does not start, for example because math-verify is not installed.
        """
        with self._lock:
            if self._process and (self._num_compared >= COMPARISONS_PER_PROCESS or self._process.poll() is not None):
                self._end()
            process, line = self._process or self._start(), b""
            assert process.stdin and process.stdout
            with suppress(OSError):  # the process may die at any time
                process.stdin.write(json.dumps([gold, answer]).encode() + b"\n")
                is_silent = not wait([process.stdout.fileno()], self._wall_limit)
                line = None if is_silent else process.stdout.readline()
            if not line:
                raise self._failure(is_silent=line is None)
            self._num_compared += 1
        outcome = json.loads(line)
        if outcome is None:
            raise VerifierError(f"the comparison raised an exception on {answer[:100]!r}")
        return bool(outcome)

    def load(self) -> None:
        """Starts the process and waits until it answers; VerifierUnavailable is raised if it does not start."""
        self("1", "1")

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def __reduce__(self) -> tuple[type[Verifier], tuple[float, float]]:
        return Verifier, (self._deadline, self._wall_limit)

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._num_compared = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rewards.grading.symbolic", str(self._deadline)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            start_new_session=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            cwd=_ROOT,  # a folder "rewards" of the user's would come first on the path
        )  # fmt: skip
        return self._process

    def _failure(self, is_silent: bool) -> Exception:
        """Ends the process, starts another one, and says why the first gave no answer."""
        was_new, status = not self._num_compared, self._end()
        if was_new and status and status > 0:
            return VerifierUnavailable(
                f"the process that compares expressions did not start (status {status}); is math-verify==0.9.0 "
                f"installed for {sys.executable}?"
            )
        self._start()  # while other answers are compared
        if is_silent:
            return VerifierTimeout(f"a comparison gave no answer within {self._wall_limit} s of wall-clock time")
        if status == -signal.SIGPROF:
            return VerifierTimeout(f"a comparison has spent its {self._deadline} s of CPU time")
        return VerifierError(f"the process that compares expressions died with status {status}")

    def _end(self) -> int | None:
        """Ends the process, and returns its status, which is negative for a signal that had ended it before."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode
