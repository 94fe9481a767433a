"""A worker group whose workers are Ray actors, and the errors that the trainer gets when they fail."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from unigrpo.config import BaseRunConfig
from unigrpo.workers.group import joined, parts
from unigrpo.workers.stats import WorkerStats

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

GRACE_SECONDS = 3.0
"""Time in seconds in which other workers may report failures after the first one, since a worker that dies makes its
peers fail, often earlier."""

LOST_CONNECTION = re.compile(r"connection (closed|reset) by peer|broken pipe|remote process exited", re.IGNORECASE)
"""Messages of gloo and NCCL in the peers of a process that has ended."""
DEATH_SECONDS = 30.0
"""Longest time in seconds until Ray reports a process that has ended, after its peers lost the connection."""
REMINDER_SECONDS = 120.0
"""Shortest duration of a call in seconds after which the log names the workers that are not ready; then twice as long,
and so on."""
USUAL_FACTOR = 3.0
"""Multiple of the longest call of the same method that a call must also exceed before that."""
CLOSE_SECONDS = 3.0
"""Longest time in seconds that closing waits for busy workers."""


class WorkerError(RuntimeError):
    """A call of a worker failed; the message names the worker."""


class WorkerFailed(WorkerError):
    """A worker raised an error, which is the cause of this one."""


class WorkerDied(WorkerError):
    """The process of a worker has ended."""


class RayGroup:
    """Workers of one role, each in an actor that is a :class:`~unigrpo.distributed.worker_actor.WorkerActor`."""

    def __init__(self, role: str, actors: Sequence[Any]) -> None:
        """Wraps the actors.

        Args:
            role: Role for messages: ``policy``, ``reference`` or ``rollout``.
            actors: Handles in the order of the ranks.
        """
        self.role = role
        self.actors = list(actors)
        self.stats = WorkerStats(len(self.actors))
        self._longest: dict[str, float] = {}
        """Seconds of the longest call of each method."""

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self.actors)

    def map(self, method: Callable[..., Result], items: Any, *args: Any, **kwargs: Any) -> Result:
        """Gives each worker a contiguous part of ``items`` and joins the results in the order of the workers.

        Raises:
            WorkerError: See :meth:`call`.
        """
        return self.start_map(method, items, *args, **kwargs)()

    def call(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> list[Result]:
        """Runs the method on every worker with the same arguments and returns one result each.

        Raises:
            WorkerFailed: A worker raised an error.
            WorkerDied: A worker's process ended.
        """
        return self.start_call(method, *args, **kwargs)()

    def start_map(self, method: Callable[..., Result], items: Any, *args: Any, **kwargs: Any) -> Callable[[], Result]:
        """Starts :meth:`map` without waiting. Calling the returned function waits, and raises."""
        name = method.__name__
        refs = [
            actor.run.remote(name, (part, *args), kwargs)
            for actor, part in zip(self.actors, parts(items, self.size), strict=True)
        ]
        return lambda: joined(self._recorded(refs, name))

    def start_call(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> Callable[[], list[Result]]:
        """Starts :meth:`call` without waiting. Calling the returned function waits, and raises."""
        name = method.__name__
        refs = [actor.run.remote(name, args, kwargs) for actor in self.actors]
        return lambda: self._recorded(refs, name)

    def initialize(self, config: BaseRunConfig) -> None:
        """Builds the workers, without a time limit. Raises as :meth:`call` does."""
        self._results([actor.initialize.remote(config) for actor in self.actors], "initialize")

    def close(self) -> None:
        """Ends the workers, after a short time in which they can end their own processes."""
        ray.wait([a.close.remote() for a in self.actors], num_returns=self.size, timeout=CLOSE_SECONDS)
        for actor in self.actors:
            ray.kill(actor)

    def _recorded(self, refs: list[Any], method: str) -> list[Any]:
        """Returns the results of a method in the order of the workers and records what it cost."""
        answers = self._results(refs, method)
        self.stats.record(method, [work for _, work in answers])
        return [result for result, _ in answers]

    def _results(self, refs: list[Any], method: str) -> list[Any]:
        """Returns the results in the order of the workers; waits no longer than for the first failure.

        The log names the workers that take unusually long, since a process that is stopped, or that waits for another
        one, raises nothing.
        """
        results: dict[int, Any] = {}
        started = time.monotonic()
        unusual = reminder = max(REMINDER_SECONDS, USUAL_FACTOR * self._longest.get(method, 0.0))
        while len(results) < len(refs):
            pending = {index: ref for index, ref in enumerate(refs) if index not in results}
            ready, _ = ray.wait(list(pending.values()), timeout=max(0.0, started + reminder - time.monotonic()))
            if not ready:
                self._warn_of_waiting(list(pending), method, time.monotonic() - started)
                reminder *= 2
                continue
            try:
                results[refs.index(ready[0])] = ray.get(ready[0])
            except RayError:
                seconds = time.monotonic() - started
                failures = _failures(refs)
                raise self._error(failures, method, self._late(refs, method, seconds, unusual)) from None
        self._longest[method] = max(self._longest.get(method, 0.0), time.monotonic() - started)
        return [results[index] for index in range(len(refs))]

    def _warn_of_waiting(self, workers: Sequence[int], method: str, seconds: float) -> None:
        usual = f"; the longest {method} before took {self._longest[method]:.0f} s" if method in self._longest else ""
        logger.warning(
            "%s: still in %s after %.0f s, %d of %d have ended it%s. If it never ends, check whether a process is "
                    "stopped or a node has failed (ray status)",
            self._name(*workers), method, seconds, self.size - len(workers), self.size, usual,
        )  # fmt: skip

    def _late(self, refs: list[Any], method: str, seconds: float, unusual: float) -> str:
        """Returns the end of the message about a failure that came after an unusual time: the workers that have
        neither failed nor ended the call. The others wait for them in a collective until it times out."""
        _, waiting = ray.wait(refs, num_returns=len(refs), timeout=0)
        if seconds < unusual or not waiting:
            return ""
        names = self._name(*(index for index, ref in enumerate(refs) if ref in waiting))
        return (
            f". After {seconds:.0f} s, {names} had neither ended {method} nor failed, and the others may have waited "
            "for that: see whether a process is stopped or a node is gone (ray status)"
        )

    def _error(self, failures: dict[int, RayError], method: str, late: str) -> WorkerError:
        """Returns one error for all failures, with the end of its message; a death explains the others."""
        for index, error in failures.items():
            if _is_death(error):
                died = WorkerDied(
                    f"{self._name(index)} died in {method}: {_first_line(error)}. The same command resumes from the "
                    f"last checkpoint, if there is one. If its memory ran out, lower the micro-batch sizes{late}"
                )
                died.__cause__ = error
                return died
        workers: dict[str, list[int]] = {}
        for index, error in failures.items():
            workers.setdefault(cause_of(error), []).append(index)
        failed = WorkerFailed(
            "; ".join(f"{self._name(*w)} failed in {method}: {cause}" for cause, w in workers.items()) + late
        )
        failed.__cause__ = next(iter(failures.values()))
        return failed

    def _name(self, *indices: int) -> str:
        return f"{self.role} worker{'s' if len(indices) > 1 else ''} {', '.join(map(str, indices))}"


def _failures(refs: list[Any]) -> dict[int, RayError]:
    """Returns the failures by worker: after the grace period, or when a death can explain a lost connection."""
    failures = _failed(refs, GRACE_SECONDS)
    is_explained = any(map(_is_death, failures.values()))
    if not is_explained and any(LOST_CONNECTION.search(cause_of(error)) for error in failures.values()):
        return _failed(refs, DEATH_SECONDS)
    return failures


def _failed(refs: list[Any], seconds: float) -> dict[int, RayError]:
    """Returns the failures by worker when all calls have ended, or after some seconds."""
    done, _ = ray.wait(refs, num_returns=len(refs), timeout=seconds)
    failures: dict[int, RayError] = {}
    for ref in done:
        try:
            ray.get(ref)
        except RayError as error:
            failures[refs.index(ref)] = error
    return dict(sorted(failures.items()))


def _is_death(error: RayError) -> bool:
    return isinstance(error, (RayActorError, OutOfMemoryError))


def cause_of(error: RayError) -> str:
    """Returns the exception that the worker raised; if it could not be sent, the last line of its traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, RayError):
        return str(cause).strip().splitlines()[-1]
    return f"{type(cause).__name__}: {cause}"


def _first_line(error: RayError) -> str:
    return " ".join(str(error).split("\n\n")[0].split())
