"""JustGRPO: the chain rule from left to right. Each view scores one token and masks it and all later tokens."""

from __future__ import annotations

import math

import torch

from unigrpo import ConfigError
from unigrpo.algorithm.likelihood.base import LikelihoodEstimator, Row, Views


class LeftToRight(LikelihoodEstimator):
    """log pi(o) = sum over tokens i of log p(o_i | prompt, the response before i).

    The log-likelihood is exact for a sampler that fixes one token at a time from left to right:
    ``rollout.text.block_length`` 1. The mask ratio of the inner update is not used. The codes of an image are taken
    row by row. The cost is one forward pass for each scored token.

    Args:
        top_entropy: Fraction of the scored tokens that are used, at least one token: those whose distribution had the
            highest entropy when they were fixed. 1 uses all.

    Source:
        JustGRPO, arXiv:2601.15165; its fast form keeps the quarter of the tokens with the highest entropy.
    """

    def __init__(self, top_entropy: float = 1.0) -> None:
        if not 0 < top_entropy <= 1:
            raise ConfigError(f"left_to_right: top_entropy is {top_entropy}; it must lie in (0, 1]")
        self._top_entropy = top_entropy

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        places = row.scored_mask.nonzero().flatten()
        if self._top_entropy < 1 and len(places):
            if row.commit_entropy is None:
                raise ConfigError(
                    "left_to_right: top_entropy below 1 needs the entropies of the rollout, and the sampler recorded "
                    "none; set top_entropy 1"
                )
            kept = row.commit_entropy[places].topk(math.ceil(self._top_entropy * len(places))).indices
            places = places[kept].sort().values
        position = torch.arange(len(row.token_ids))
        weight = (position == places[:, None]).float()
        return Views(
            is_masked=row.response_mask & (position >= places[:, None]), weight=weight, rate=torch.ones_like(weight)
        )
