"""A group of workers in processes of this machine, one for each GPU, without Ray."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from unigrpo import CheckpointError
from unigrpo.workers.group import joined, parts
from unigrpo.workers.stats import WorkerStats

_worker: Any = None
"""The worker of this process."""


class ProcessGroup:
    """Workers of one role in processes; see :class:`~unigrpo.workers.group.WorkerGroup`."""

    def __init__(self, makers: Sequence[Callable[[], Any]]) -> None:
        """Starts a process for each worker.

        Args:
            makers: Functions that make the workers, each in its process. They must be picklable.

        Raises:
            CheckpointError: A process ended while it made its worker.
        """
        self.size = len(makers)
        self.stats = WorkerStats(self.size)
        context = get_context("spawn")  # CUDA does not survive a fork
        # Ctrl-C reaches all processes; the command reports it, and the others end without a traceback each.
        ended_by_ctrl_c = {"initializer": signal.signal, "initargs": (signal.SIGINT, signal.SIG_DFL)}
        self._processes = [ProcessPoolExecutor(1, mp_context=context, **ended_by_ctrl_c) for _ in makers]
        self._results([one.submit(_make, maker) for one, maker in zip(self._processes, makers, strict=True)])

    def map(self, method: Callable[..., Any], items: Any, *args: Any, **kwargs: Any) -> Any:
        """Gives each worker a contiguous part of the items and joins the results in the order of the workers."""
        return self.start_map(method, items, *args, **kwargs)()

    def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Runs the method on every worker with the same arguments and returns one result each."""
        return self.start_call(method, *args, **kwargs)()

    def start_map(self, method: Callable[..., Any], items: Any, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """Starts :meth:`map` and returns at once. Calling the returned function waits for the results."""
        shared = list(zip(self._processes, parts(items, self.size), strict=True))
        filled = [(process, part) for process, part in shared if part] or shared[:1]
        futures = [process.submit(_run, pickle.dumps((method, (part, *args), kwargs))) for process, part in filled]
        return lambda: joined(self._results(futures))

    def start_call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], list[Any]]:
        """Starts :meth:`call` and returns at once. Calling the returned function waits for the results."""
        packed = pickle.dumps((method, args, kwargs))
        futures = [one.submit(_run, packed) for one in self._processes]
        return lambda: self._results(futures)

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes:
            process.shutdown(cancel_futures=True)

    def _results(self, futures: Sequence[Future[bytes]]) -> list[Any]:
        try:
            return [pickle.loads(future.result()) for future in futures]
        except BrokenProcessPool as error:
            raise CheckpointError(
                "a process of a worker ended by itself, often because the memory was full; lower "
                "rollout.micro_batch_size, or use fewer processes"
            ) from error


def _make(maker: Callable[[], Any]) -> bytes:
    """Makes the worker of this process."""
    global _worker  # one worker is what this process is for
    _worker = maker()
    return pickle.dumps(None)


def _run(packed: bytes) -> bytes:
    """Calls a method of the worker. Tensors travel by value, since shared ones would keep a file open each."""
    method, args, kwargs = pickle.loads(packed)
    return pickle.dumps(method(_worker, *args, **kwargs))
