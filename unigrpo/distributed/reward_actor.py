"""The actor of a reward worker; apart from the model actors, because it needs none of their imports."""

from __future__ import annotations

from unigrpo.config import RunConfig
from unigrpo.distributed.host import Host
from unigrpo.workers.reward import RewardWorker


class RewardActor(Host):
    """A reward process."""

    def initialize(self, config: RunConfig) -> None:
        """Loads the rewards."""
        self.worker = RewardWorker(config.reward)
