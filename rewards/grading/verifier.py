"""Comparing expressions in a process of its own, which ends when its CPU time is spent and is started again."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

DEADLINE = 2.0
"""CPU seconds for one comparison."""
START_SECONDS = 120.0
"""Seconds for the process to import sympy on a busy machine."""
SLOWEST = 60.0
"""A process that has not answered after so many seconds for each CPU second it may use is hung."""
COMPARISONS_PER_PROCESS = 5000
"""Comparisons before a fresh process: sympy's caches grow."""


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
        self._ready = False
        self._used = 0

    def __call__(self, gold: str, answer: str) -> bool:
        """Whether two expressions are equal.

        Raises:
            VerifierTimeout: The comparison has spent its CPU time; the process is replaced.
            VerifierError: There is no outcome for another reason.
            VerifierUnavailable: The process does not start, for example because math-verify is not installed.
        """
        with self._lock:
            self._start()
            try:
                outcome = self._ask(json.dumps([gold, answer]) + "\n")
            except (VerifierTimeout, VerifierError, OSError) as error:
                self._kill()
                self._spawn()  # starts while other answers are compared
                raise error if isinstance(error, VerifierTimeout) else VerifierError(str(error)) from error
            self._used += 1
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
            self._kill()

    def __getstate__(self) -> dict[str, float]:
        return {"deadline": self._deadline}

    def __setstate__(self, state: dict[str, float]) -> None:
        self.__init__(state["deadline"])

    def _start(self) -> None:
        if self._process is not None and (self._used >= COMPARISONS_PER_PROCESS or self._process.poll() is not None):
            self._kill()
        if self._process is None:
            self._spawn()
        if not self._ready:
            try:
                line = self._line(START_SECONDS)
            except (VerifierTimeout, VerifierError, OSError) as error:
                self._kill()
                raise VerifierUnavailable(
                    f"the math-verify process did not start ({error}); is math-verify==0.9.0 installed for "
                    f"{sys.executable}?"
                ) from error
            if line != "ready":
                self._kill()
                raise VerifierUnavailable(f"the math-verify process said {line[:100]!r} instead of 'ready'")
            self._ready = True

    def _spawn(self) -> None:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rewards.grading.worker", str(self._deadline)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, close_fds=True, start_new_session=True,
        )  # fmt: skip
        self._ready, self._used = False, 0

    def _kill(self) -> None:
        process, self._process, self._ready = self._process, None, False
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()
            process.wait()

    def _ask(self, line: str) -> bool | None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()
        return json.loads(self._line(SLOWEST * self._deadline))

    def _line(self, seconds: float) -> str:
        assert self._process is not None and self._process.stdout is not None
        source = self._process.stdout.fileno()
        waiting = select.poll()
        waiting.register(source, select.POLLIN)
        end = time.monotonic() + seconds
        data = b""
        while not data.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                raise VerifierTimeout(f"no outcome within {seconds} s")
            piece = os.read(source, 4096)
            if not piece:
                raise self._death()
            data += piece
        return data.decode().strip()

    def _death(self) -> Exception:
        assert self._process is not None
        status = self._process.wait()
        if status == -signal.SIGPROF:
            return VerifierTimeout(f"a comparison has spent its {self._deadline} s of CPU time")
        return VerifierError(f"the process that compares expressions died with status {status}")
