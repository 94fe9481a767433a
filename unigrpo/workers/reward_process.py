"""A process of a reward that is replaced when it hangs, dies or is out of memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rewards.runtime.batch import RewardBatch
from rewards.runtime.host import RewardInfo
from rewards.runtime.process import DeadlineMissed, ProcessFailed, RewardProcess
from rewards.runtime.scoring import Scores
from unigrpo.config import RewardTermConfig
from unigrpo.workers.reward import reward_spec

RELOAD_FACTOR = 2.0
"""A process that is started again beside a run may load this many times as long as the first one did."""
RELOAD_SECONDS = 60.0
"""A process that is started again may always load this long: a busy node makes a short start slow."""


@runtime_checkable
class RewardHandle(Protocol):
    """One process of a reward."""

    def load(self, *, seconds: float) -> RewardInfo:
        """Builds and loads the reward.

        Raises:
            ValueError: The reward cannot be built or loaded.
            ProcessFailed: There is no outcome within the seconds.
        """
        ...

    def score(self, inputs: Any, start: int, stop: int, *, seconds: float) -> Scores:
        """Scores a range of the inputs. Raises ProcessFailed if there is no outcome within the seconds."""
        ...

    def close(self) -> None:
        """Closes the reward, within some seconds, and ends the process."""
        ...

    def kill(self) -> None:
        """Ends the process at once. A running call in another thread raises ProcessFailed."""
        ...


class LocalReward:
    """A reward in a process of this machine; a :class:`RewardHandle`. It takes one call at a time."""

    def __init__(self, term: RewardTermConfig) -> None:
        self._process = RewardProcess(reward_spec(term))

    def load(self, *, seconds: float) -> RewardInfo:
        return self._process.load(seconds=seconds)

    def score(self, inputs: RewardBatch, start: int, stop: int, *, seconds: float) -> Scores:
        return self._process.score(inputs.part(start, stop), seconds=seconds)

    def close(self) -> None:
        self._process.close()

    def kill(self) -> None:
        self._process.kill()


@dataclass(eq=False)
class Batch:
    """Consecutive samples that one call scores."""

    start: int
    stop: int
    attempts: int = 0

    @property
    def size(self) -> int:
        return self.stop - self.start


class ReplacedProcess:
    """One process of a reward, which is replaced if it fails or is out of memory."""

    def __init__(self, start: Callable[[], RewardHandle]) -> None:
        self._start = start
        self._handle = start()
        self._lock = threading.Lock()
        self._is_loaded = self._is_closed = False
        self._load_seconds = 0.0
        self._running: list[Batch] = []
        """Running calls in the order of their starts; several if the reward accepts concurrent calls."""
        self._to_blame: Batch | None = None

    def load(self, *, seconds: float) -> RewardInfo:
        """Loads the reward for the first time; see :meth:`RewardHandle.load`."""
        started = time.monotonic()
        info = self._handle.load(seconds=seconds)
        self._load_seconds, self._is_loaded = time.monotonic() - started, True
        return info

    def score(self, inputs: Any, batch: Batch, *, seconds: float) -> Scores | None:
        """Scores a batch.

        Returns:
            The scores; None if another call brought the process down, which is no fault of this batch.

        Raises:
            ProcessFailed: This call brought the process down.
            CancelledError: The process was closed.
        """
        with self._lock:
            handle = self._loaded_handle()
            self._running.append(batch)
        try:
            scores = handle.score(inputs, batch.start, batch.stop, seconds=seconds)
            if scores.is_out_of_memory:  # what a reward keeps of every call is gone with its process
                self._replace(handle, batch, is_late=False)
            return scores
        except ProcessFailed as error:
            if self._replace(handle, batch, is_late=isinstance(error, DeadlineMissed)) is batch:
                raise
            return None
        finally:
            with self._lock:
                self._running.remove(batch)

    def close(self) -> None:
        """Ends the process for good."""
        self._is_closed = True
        self._handle.close()
        with self._lock:  # a thread may have started another one meanwhile
            self._handle.kill()

    def _loaded_handle(self) -> RewardHandle:
        """The process. After a restart the first call loads it, and the others wait for that."""
        if not self._is_loaded:
            try:
                self._handle.load(seconds=max(RELOAD_FACTOR * self._load_seconds, RELOAD_SECONDS))
            except (ProcessFailed, ValueError) as error:
                self._restart()
                raise ProcessFailed(f"could not be loaded again: {error}") from error
            self._is_loaded = True
        return self._handle

    def _replace(self, handle: RewardHandle, batch: Batch, *, is_late: bool) -> Batch | None:
        """Starts a fresh process in the place of a failed one, once. Returns the batch that brought it down.

        Of several late calls it is the one that was under way the longest.
        """
        with self._lock:
            if self._handle is handle:
                self._to_blame = self._running[0] if is_late else batch
                self._restart()
            return self._to_blame

    def _restart(self) -> None:
        if self._is_closed:
            raise CancelledError("the rewards were closed before they had scored")
        self._handle.kill()
        self._handle, self._is_loaded = self._start(), False
