"""The process of one reward; apart from the model actors, because it needs none of their imports."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rewards.base import RewardInput
from unigrpo.config import RewardTermConfig
from unigrpo.distributed.devices import check_gpu
from unigrpo.workers.reward import RewardWorker, TermScores


class RewardActor:
    """Builds the reward with :meth:`load`, so that an error there reaches the caller as it is."""

    def __init__(self, config: RewardTermConfig) -> None:
        self._config = config
        self._worker: RewardWorker | None = None
        self._tried = threading.Event()

    def load(self) -> str:
        """Builds and loads the reward. Returns its name."""
        try:
            check_gpu()
            worker = RewardWorker(self._config)
            name = worker.load()
            self._worker = worker
            return name
        finally:
            self._tried.set()

    def score(self, inputs: Sequence[RewardInput], start: int, stop: int) -> TermScores:
        """The rewards of a range of the inputs."""
        self._tried.wait()  # threads of one actor have no order
        if self._worker is None:
            raise RuntimeError("it could not be loaded again")
        return self._worker.score(inputs[start:stop])

    def close(self) -> None:
        """Lets the reward end what it started."""
        if self._worker is not None:
            self._worker.close()
