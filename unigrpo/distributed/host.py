"""What every actor does with the plain worker it hosts."""

from __future__ import annotations

from typing import Any

from unigrpo.config import ModelRun
from unigrpo.distributed.tensor_transfer import send_tensors_as_bytes
from unigrpo.workers.ledger import Work, timed


class Host:
    """Builds a worker in its own process and runs the worker's methods by name."""

    worker: Any = None

    def initialize(self, config: ModelRun) -> None:
        """Builds the worker. Apart from the constructor, so that an error here reaches the caller as it is."""
        raise NotImplementedError

    def run(self, method: str, *args: Any, **kwargs: Any) -> tuple[Any, Work]:
        """Calls a method of the worker. Returns its result and what it cost."""
        send_tensors_as_bytes()
        return timed(self.worker, lambda: getattr(self.worker, method)(*args, **kwargs))

    def close(self) -> None:
        """Lets the worker end what it started."""
        if hasattr(self.worker, "close"):
            self.worker.close()
