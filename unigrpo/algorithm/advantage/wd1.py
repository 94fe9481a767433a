"""wd1: weights that reinforce good samples minus weights that discourage bad samples."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.advantage.base import AdvantageEstimator


class WeightDifference(AdvantageEstimator):
    """softmax(rewards / temperature) - softmax(-rewards / temperature) over the group.

    The weights of a group add up to 0, and the positive ones to at most 1. The loss takes the mean over responses, so
    it is the sum of the paper divided by the size of the group. Use it with the objective `weighted`.

    Args:
        temperature: Temperature of both softmaxes, in units of the reward.

    Source:
        wd1, arXiv:2507.08838: temperature 1, on rewards minus their mean, which changes neither softmax.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ConfigError(f"wd1: temperature is {temperature}; it must be above 0")
        self._temperature = temperature

    def within(self, rewards: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        scaled = rewards / self._temperature
        return scaled.softmax(dim=0) - (-scaled).softmax(dim=0)
