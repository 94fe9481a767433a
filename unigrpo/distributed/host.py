"""What every actor does with the plain worker it hosts."""

from __future__ import annotations

from typing import Any

from unigrpo.config import ModelRun
from unigrpo.distributed.tensor_transfer import Packed, pack, unpack
from unigrpo.workers.ledger import Work, timed


class Host:
    """Builds a worker in its own process and runs the worker's methods by name."""

    worker: Any = None

    def initialize(self, config: ModelRun) -> None:
        """Builds the worker. Apart from the constructor, so that an error here reaches the caller as it is."""
        raise NotImplementedError

    def run(self, method: str, arguments: Packed) -> tuple[Packed, Work]:
        """Calls a method of the worker with positional and keyword arguments. Returns its result and what it cost."""
        args, kwargs = unpack(arguments)
        result, work = timed(self.worker, lambda: getattr(self.worker, method)(*args, **kwargs))
        return pack(result), work

    def close(self) -> None:
        """Lets the worker end what it started."""
        if hasattr(self.worker, "close"):
            self.worker.close()
