"""An object, such as a reward, in its own process on this machine, with a deadline for every call."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from rewards.base import RewardInput
from rewards.runtime.host import RewardInfo, RewardSpec
from rewards.runtime.scoring import Scores

CLOSE_SECONDS = 3.0
"""Longest time in seconds that a reward may take to close."""
_PHASES = {
    "build": " while it was imported",
    "load": " while it was loaded",
    "check_prompts": " while it checked prompts",
}


class ProcessFailed(RuntimeError):
    """A call has no outcome, since the process did not answer in time or ended. It can only be replaced."""


class DeadlineMissed(ProcessFailed):
    """A call did not answer in time."""


class HostProcess:
    """A Python process with an object, whose methods are called one at a time."""

    def __init__(self, name: str, *arguments: Any) -> None:
        """Starts the process, which builds the object from its class, named as in ``module:Class``."""
        self._busy = threading.Lock()
        """Held during a call, and for ever after one without an outcome."""
        self._connection, other = Pipe()
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        with other:
            self._process = subprocess.Popen(
                # With -m, a folder "rewards" in the working directory would come before this one.
                [sys.executable, str(Path(__file__).with_name("__main__.py")), str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the parent, which ends this process
            )
        with contextlib.suppress(ProcessFailed):  # the first call says how it ended
            self._send(sys.path)
            self._send((name, arguments))

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, which is negative for a signal, or None while the process runs."""
        return self._process.poll()

    def call(self, method: str, *arguments: Any, seconds: float) -> Any:
        """Calls a method of the object.

        Raises:
            ValueError: The method raised an exception; the message describes it.
            ProcessFailed: The process ended or did not answer in time, and takes no more calls.
        """
        if not self._busy.acquire(blocking=False):
            raise ProcessFailed("takes one call at a time, and none after one without an outcome")
        self._send((method, arguments))
        ending = time.monotonic() + seconds
        late = f"did not answer within {seconds:g} s{_PHASES.get(method, '')}"
        try:
            if not self._connection.poll(seconds):
                raise DeadlineMissed(late)
            is_right, outcome = self._received(ending)
        except ProcessFailed:
            raise
        except (EOFError, OSError) as error:
            if time.monotonic() >= ending:
                raise DeadlineMissed(late) from error
            raise ProcessFailed(self._how_it_ended() + _PHASES.get(method, "")) from error
        except Exception as error:  # the object has written to the descriptor of the connection
            raise ProcessFailed(f"sent something that is no answer ({type(error).__name__})") from error
        self._busy.release()
        if not is_right:
            raise ValueError(outcome)
        return outcome

    def _received(self, ending: float) -> tuple[bool, Any]:
        """Returns an answer that has begun to arrive. The process is killed if the answer is not whole in time."""
        timer = threading.Timer(max(ending - time.monotonic(), 0.0), self._kill_group)
        timer.daemon = True
        timer.start()
        try:
            return self._connection.recv()
        finally:
            timer.cancel()

    def kill(self) -> None:
        """Ends the process and its children at once."""
        self._kill_group()
        self._process.wait()  # the connection stays open for a thread that may be reading from it

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, 9)

    def _send(self, what: Any) -> None:
        try:
            self._connection.send(what)
        except OSError as error:
            raise ProcessFailed(self._how_it_ended()) from error

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=CLOSE_SECONDS)
        status = self._process.returncode
        return "ended its own process" + ("" if status is None else f" (exit status {status})")


class RewardProcess(HostProcess):
    """Runs a :class:`~rewards.runtime.host.RewardHost` in a Python process and calls its methods.

    >>> with RewardProcess(RewardSpec(name="cot_format", options={})) as process:
    ...     process.load(seconds=60.0).name
    'cot_format'
    """

    def __init__(self, spec: RewardSpec) -> None:
        super().__init__("rewards.runtime.host:RewardHost", spec)

    def build(self, *, seconds: float) -> RewardInfo:
        """Imports and constructs the reward.

        Args:
            seconds: Deadline of this call.

        Raises:
            ValueError: The reward cannot be built.
            ProcessFailed: The process ended or did not answer in time.
        """
        return self.call("build", seconds=seconds)

    def load(self, *, seconds: float) -> RewardInfo:
        """Builds and loads the reward; arguments and errors are those of :meth:`build`."""
        return self.call("load", seconds=seconds)

    def check_prompts(self, prompts: Sequence[RewardInput], *, seconds: float) -> list[str]:
        """Returns for each prompt why the reward cannot work with it; empty if it can.

        Raises:
            ProcessFailed: The process ended or did not answer in time.
        """
        return self.call("check_prompts", prompts, seconds=seconds)

    def score(self, inputs: Sequence[RewardInput], *, seconds: float) -> Scores:
        """Calls the reward.

        Raises:
            ProcessFailed: The process ended or did not answer in time.
        """
        return self.call("score", inputs, seconds=seconds)

    def close(self) -> None:
        """Closes the reward, unless a call is running, and ends the process."""
        if self._process.poll() is None and not self._busy.locked():
            with contextlib.suppress(ValueError, ProcessFailed):
                self.call("close", seconds=CLOSE_SECONDS)
        self.kill()

    def __enter__(self) -> RewardProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
