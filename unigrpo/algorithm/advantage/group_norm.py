"""GRPO: the reward minus the mean of the group, divided by its standard deviation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.advantage.base import AdvantageEstimator, centred, spread


class GroupNorm(AdvantageEstimator):
    """Rewards minus the group's mean, divided by the group's population standard deviation.

    Source:
        GRPO, arXiv:2402.03300, section 4.1.2; UniGRPO, arXiv:2505.15809, equation 15. Nothing is added to the
        standard deviation.
    """

    def within(self, rewards: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        return centred(rewards) / spread(rewards)
