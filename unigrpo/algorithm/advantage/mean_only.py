"""Dr. GRPO: reward minus the mean of the group."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.advantage.base import AdvantageEstimator, centred


class MeanOnly(AdvantageEstimator):
    """Rewards minus the group's mean.

    Source:
        Dr. GRPO, arXiv:2503.20783.
    """

    def within(self, rewards: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        return centred(rewards)
