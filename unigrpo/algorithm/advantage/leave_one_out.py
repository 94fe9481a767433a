"""RLOO: reward minus the mean of the others of the group."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.advantage.base import AdvantageEstimator, centred


class LeaveOneOut(AdvantageEstimator):
    """Rewards minus the mean of the other samples of the group.

    Source:
        RLOO, arXiv:2402.14740.
    """

    def within(self, rewards: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        return centred(rewards) * len(rewards) / (len(rewards) - 1)
