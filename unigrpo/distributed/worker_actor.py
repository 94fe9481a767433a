"""A Ray actor around one plain worker, in a module that does not import what the model actors need."""

from __future__ import annotations

from typing import Any

import ray

from unigrpo.batches import GeneratedBatch
from unigrpo.config import BaseRunConfig
from unigrpo.distributed.image_store import RayStore
from unigrpo.workers.stats import Work, timed


class WorkerActor:
    """Builds a worker in its own process and runs the worker's methods by name."""

    worker: Any = None

    def initialize(self, config: BaseRunConfig) -> None:
        """Builds the worker. This is not in the constructor, so that an error reaches the caller unchanged."""
        raise NotImplementedError

    def run(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Work]:
        """Calls a method of the worker with positional and keyword arguments. Returns its result and what it cost.

        Generated images stay in Ray's store until a process reads them.
        """
        result, work = timed(self.worker, lambda: getattr(self.worker, method)(*args, **kwargs))
        return (in_ray_store(result) if isinstance(result, GeneratedBatch) else result), work

    def close(self) -> None:
        """Closes the worker."""
        if hasattr(self.worker, "close"):
            self.worker.close()


def in_ray_store(batch: GeneratedBatch) -> GeneratedBatch:
    """Returns the batch with its images in Ray's store instead of this process."""
    pixels = batch.pixels()
    return batch.stored(RayStore(ray.put(pixels))) if pixels else batch
