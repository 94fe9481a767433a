"""The process of one reward as a Ray actor, in a module that does not import what the model actors need."""

from __future__ import annotations

from rewards.runtime.batch import RewardBatch
from rewards.runtime.host import RewardHost, RewardInfo
from rewards.runtime.memory import limit_memory
from rewards.runtime.output import limit_output
from rewards.runtime.scoring import Scores
from unigrpo.distributed.devices import check_gpu


class RewardActor(RewardHost):
    """A reward host that reads its inputs from Ray's store."""

    def load(self) -> RewardInfo:
        """Limits the memory and the output of this process, builds and loads the reward; see the base class.

        Raises:
            ValueError: The reward cannot be built or loaded, or a GPU that Ray gave cannot be used.
        """
        check_gpu()
        limit_memory()
        limit_output()
        return super().load()

    def score_range(self, inputs: RewardBatch, start: int, stop: int) -> Scores:
        """Scores a range of the inputs."""
        return self.score(inputs.part(start, stop))
