"""Comparing expressions in a process of its own, which ends when its CPU time is spent and is started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

DEADLINE = 2.0
"""CPU seconds for one comparison."""
COMPARISONS_PER_PROCESS = 5000
"""Comparisons before a fresh process, because sympy's caches grow."""


class VerifierTimeout(Exception):
    """A comparison has spent its CPU time."""


class VerifierError(Exception):
    """The process died, or the comparison raised."""


class VerifierUnavailable(RuntimeError):
    """The process cannot start at all, so that no answer could be compared."""


class Verifier:
    """One comparing process, started when first needed. Threads may share it."""

    def __init__(self, deadline: float = DEADLINE) -> None:
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_ready = False
        self._used = 0

    def __call__(self, gold: str, answer: str) -> bool:
        """Whether two LaTeX expressions, or two relations, are equal.

        Raises:
            VerifierTimeout: The comparison has spent its CPU time; the process is replaced.
            VerifierError: There is no outcome for another reason.
            VerifierUnavailable: The process does not start, for example because math-verify is not installed.
        """
        with self._lock:
            self._start()
            line = self._ask(json.dumps([gold, answer]) + "\n")
            if not line:
                status = self._end()
                self._spawn()  # it starts while other answers are compared
                if status == -signal.SIGPROF:
                    raise VerifierTimeout(f"a comparison has spent its {self._deadline} s of CPU time")
                raise VerifierError(f"the process that compares expressions died with status {status}")
            self._used += 1
        outcome = json.loads(line)
        if outcome is None:
            raise VerifierError(f"the comparison raised on {answer[:100]!r}")
        return bool(outcome)

    def load(self) -> None:
        """Starts the process.

        Raises:
            VerifierUnavailable: It does not start.
        """
        with self._lock:
            self._start()

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._end()

    def __getstate__(self) -> dict[str, float]:
        return {"deadline": self._deadline}

    def __setstate__(self, state: dict[str, float]) -> None:
        self.__init__(state["deadline"])

    def _start(self) -> None:
        if self._process is not None and (self._used >= COMPARISONS_PER_PROCESS or self._process.poll() is not None):
            self._end()
        if self._process is None:
            self._spawn()
        if not self._is_ready and self._ask() != "ready":
            raise VerifierUnavailable(
                f"the process that compares expressions did not start (status {self._end()}); is math-verify==0.9.0 "
                f"installed for {sys.executable}?"
            )
        self._is_ready = True

    def _spawn(self) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rewards.grading.worker", str(self._deadline)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            start_new_session=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._is_ready, self._used = False, 0

    def _ask(self, question: str = "") -> str:
        """The process's next line; empty if it died."""
        assert self._process and self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(question.encode())
            return self._process.stdout.readline().decode().strip()
        except OSError:
            return ""

    def _end(self) -> int | None:
        """Ends the process, and returns its status; negative for the signal that had ended it before."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        with process:  # closes the pipes and waits
            pass
        return process.returncode
