"""ESPO: the evidence lower bound by pairs of a mask and its complement."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.likelihood.base import LikelihoodEstimator, Row, Views, span_views
from unigrpo.algorithm.masking import lowest_draws, uniform_draws


class ElboPair(LikelihoodEstimator):
    """ELBO(o) = mean over pairs of 1/2 (sum over i in M of lp_i(M) / p + sum over i not in M of lp_i(M^c) / q).

    M is a uniformly random subset of k of the n scored tokens, with k uniform in {0, ..., n}; ``lp_i(S)`` is the
    log-probability of token i if the set S is masked, p = k / (n + 1) and q = (n - k) / (n + 1). The estimate is
    unbiased, and the complement of a mask reduces its variance. The mask ratio of the inner update is not used. The
    weights are large for small sets, so use ``algo.objective.level`` `sequence`.

    Args:
        num_pairs: Number of independent pairs, each of which costs two forward passes.

    Source:
        ESPO, arXiv:2512.03759. n counts the tokens up to the first end-of-text.
    """

    bound = "elbo"

    def __init__(self, num_pairs: int = 1) -> None:
        if num_pairs < 1:
            raise ConfigError(f"elbo_pair: num_pairs is {num_pairs}; use at least 1")
        self._num_pairs = num_pairs

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        return Views.joined([self._pair(row, generator) for _ in range(self._num_pairs)], len(row.token_ids))

    def _pair(self, row: Row, generator: torch.Generator) -> Views:
        scored = row.scored_mask
        number = int(scored.sum())
        size = int(torch.randint(number + 1, (), generator=generator))
        first = lowest_draws(uniform_draws(scored[None], [generator]), torch.tensor([size]), scored[None])[0]
        return pair_views(first, row, self._num_pairs)


def pair_views(first: Bool[Tensor, " L"], row: Row, num_pairs: int) -> Views:
    """Returns the views of a mask and of its complement.

    Args:
        first: Scored tokens that the mask masks.
        row: The sample.
        num_pairs: Number of pairs over which the estimate is averaged.
    """
    number, size = int(row.scored_mask.sum()), int(first.sum())
    masks = torch.stack([first, row.scored_mask & ~first])
    rate = torch.tensor([[size], [number - size]]) / (number + 1)
    weight = torch.where(masks, 1 / (2 * num_pairs * rate.clamp(min=1e-9)), 0.0)
    return span_views(masks, weight, rate, row)
