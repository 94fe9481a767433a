"""A group of equal workers as the trainer sees it, and the group of one worker in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

from unigrpo.batches import Columnar
from unigrpo.workers.stats import WorkerStats, timed

Item = TypeVar("Item")
Items = TypeVar("Items")
"""Values of several samples: a sequence or a columnar batch."""
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@runtime_checkable
class WorkerGroup(Protocol):
    """Workers of one role. Methods are passed as functions, so that an editor can follow them."""

    stats: WorkerStats
    """Cost of the calls."""

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    def map(
        self,
        method: Callable[Concatenate[Any, Items, Arguments], Result],
        items: Items,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Gives each worker a contiguous part of ``items`` and joins the results in the order of the workers.

        Both are sequences or columnar batches.
        """
        ...

    def call(
        self,
        method: Callable[Concatenate[Any, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> list[Result]:
        """Runs the method on every worker with the same arguments and returns one result each."""
        ...

    def start_map(
        self,
        method: Callable[Concatenate[Any, Items, Arguments], Result],
        items: Items,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Callable[[], Result]:
        """Starts :meth:`map` and returns at once. Calling the returned function waits for the results."""
        ...

    def start_call(
        self,
        method: Callable[Concatenate[Any, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Callable[[], list[Result]]:
        """Starts :meth:`call` and returns at once. Calling the returned function waits for the results."""
        ...

    def close(self) -> None:
        """Ends the workers."""
        ...


def split_evenly(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Splits items into contiguous parts whose lengths differ by at most one.

    >>> split_evenly([1, 2, 3, 4, 5], 2)
    [[1, 2, 3], [4, 5]]
    """
    bounds = [-(-len(items) * i // size) for i in range(size + 1)]
    return [items[a:b] for a, b in itertools.pairwise(bounds)]


def parts(items: Any, size: int) -> list[Any]:
    """Splits a sequence or a columnar batch into contiguous parts whose lengths differ by at most one."""
    return items.split(size) if isinstance(items, Columnar) else split_evenly(items, size)


def joined(results: Sequence[Any]) -> Any:
    """Joins the results of the workers: lists or columnar batches."""
    if isinstance(results[0], Columnar):
        return type(results[0]).join(results)
    return list(itertools.chain(*results))


class LocalGroup:
    """One worker in this process."""

    size = 1

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.stats = WorkerStats(self.size)
        self._threads = ThreadPoolExecutor(max_workers=1)  # like an actor: what is started runs one after the other

    def map(self, method: Callable[..., Result], items: Any, *args: Any, **kwargs: Any) -> Result:
        return self._recorded(method, items, *args, **kwargs)

    def call(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> list[Result]:
        return [self._recorded(method, *args, **kwargs)]

    def start_map(self, method: Callable[..., Result], items: Any, *args: Any, **kwargs: Any) -> Callable[[], Result]:
        return self._threads.submit(self.map, method, items, *args, **kwargs).result

    def start_call(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> Callable[[], list[Result]]:
        return self._threads.submit(self.call, method, *args, **kwargs).result

    def close(self) -> None:
        self._threads.shutdown()

    def _recorded(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result, work = timed(self.worker, lambda: method(self.worker, *args, **kwargs))
        self.stats.record(method.__name__, [work])
        return result
