"""DAPO: groups whose rewards differ."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.advantage.base import spread
from unigrpo.algorithm.group_filter.base import GroupFilter


class Informative(GroupFilter):
    """Keeps a group if the population standard deviation of its rewards is above ``min_spread``.

    In other groups all rewards are equal, so that all advantages are 0 and the policy learns nothing from them.

    Args:
        min_spread: Largest standard deviation at which a group is left out, in units of the reward.

    Source:
        DAPO, arXiv:2503.14476, section 3.2 and equation 11, for rewards that are right or wrong.
    """

    def __init__(self, min_spread: float = 0.0) -> None:
        if not min_spread >= 0:
            raise ConfigError(f"informative: min_spread is {min_spread}; it must be 0 or more")
        self._min_spread = min_spread

    def keeps(self, rewards: Float[Tensor, " G"]) -> bool:
        # Measured from one of them, equal rewards are exactly 0 apart: no rounding of the mean can split them.
        return bool(spread(rewards - rewards[0]) > self._min_spread)
