"""GDPO: the evidence lower bound by Gauss quadrature over the mask ratio."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.likelihood.base import LikelihoodEstimator, Row, Views, span_views
from unigrpo.algorithm.masking import bernoulli_mask, uniform_draws


class ElboQuadrature(LikelihoodEstimator):
    """ELBO(o) = sum over nodes j of w_j / t_j * sum over i in M_j of lp_i(M_j).

    t_j and w_j are the nodes and weights of the Gauss-Legendre rule on [0, 1]. M_j masks each scored token
    independently with the probability t_j, and ``lp_i(S)`` is the log-probability of token i if the set S is masked.
    The rule is exact for responses of up to twice as many tokens as nodes. For longer responses it has a small bias
    instead of the variance of a random mask ratio. The mask ratio of the inner update is not used. No token is forced
    into an empty mask, which would bias the sum, so a very short response may have no scored token in an inner update.

    Args:
        num_nodes: Number of mask ratios, each of which has one mask and costs one forward pass.

    Source:
        GDPO, arXiv:2510.08554: three nodes, one mask each.
    """

    bound = "elbo"

    def __init__(self, num_nodes: int = 3) -> None:
        if num_nodes < 1:
            raise ConfigError(f"elbo_quadrature: num_nodes is {num_nodes}; use at least 1")
        self._nodes, self._weights = gauss_legendre(num_nodes)

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        scored = row.scored_mask[None]
        masks = torch.cat(
            [
                bernoulli_mask(uniform_draws(scored, [generator]), node[None], scored, at_least_one=False)
                for node in self._nodes
            ]
        )
        rate = self._nodes[:, None]
        return span_views(masks, torch.where(masks, self._weights[:, None] / rate, 0.0), rate, row)


def gauss_legendre(num_nodes: int) -> tuple[Float[Tensor, " Q"], Float[Tensor, " Q"]]:
    """Returns the nodes in ascending order and the weights of the Gauss-Legendre rule on [0, 1]."""
    nodes, weights = torch.zeros(2, num_nodes, dtype=torch.float64)
    for i in range(num_nodes):
        x, slope = -math.cos(math.pi * (i + 0.75) / (num_nodes + 0.5)), 1.0
        for _ in range(20):  # Newton's method; from this start five steps are exact
            before, value = 1.0, x
            for k in range(2, num_nodes + 1):
                before, value = value, ((2 * k - 1) * x * value - (k - 1) * before) / k
            slope = num_nodes * (x * value - before) / (x * x - 1)
            x -= value / slope
        nodes[i], weights[i] = (x + 1) / 2, 1 / ((1 - x * x) * slope**2)
    return nodes.float(), weights.float()
