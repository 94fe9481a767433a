"""coupled-GRPO: a mask, its complement, and the whole response masked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.likelihood.base import (
    LikelihoodEstimator,
    Row,
    Views,
    check_masking,
    common_bounds,
    span_views,
    unit_ratio,
)
from unigrpo.algorithm.masking import bernoulli_mask, exact_count_mask, uniform_draws


class Coupled(LikelihoodEstimator):
    """log pi(o_i) = 1/2 (lp_i(all masked) + [i in M] lp_i(M) / t + [i not in M] lp_i(complement of M) / (1 - t)).

    ``lp_i(S)`` is the log-probability of token i if the set S is masked. Every token is scored in two of the three
    views, with weights that add up to 3/2 on average. t is the mask ratio of the inner update, mapped into
    [ratio_min, ratio_max], or into the part of this range within the bounds of ``algo.mask_ratio``, because the
    weights would grow without bound for t near 0 and 1.

    Args:
        ratio_min: Lowest t, above 0.
        ratio_max: Highest t, below 1.
        masking: `bernoulli` masks each token independently, `exact_count` exactly the rounded fraction.

    Source:
        coupled-GRPO of DiffuCoder, arXiv:2506.20639, section 4, and its released code: t uniform in [0.2, 0.8].
        With `exact_count`, t is the fraction that was masked.
    """

    def __init__(self, ratio_min: float = 0.2, ratio_max: float = 0.8, masking: str = "bernoulli") -> None:
        check_masking("coupled", masking)
        if not 0 < ratio_min <= ratio_max < 1:
            raise ConfigError(
                f"coupled: ratio_min {ratio_min} and ratio_max {ratio_max} must satisfy 0 < ratio_min <= ratio_max < 1"
            )
        self._ratio_min, self._ratio_max = ratio_min, ratio_max
        self._masking: str = masking

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        low, high = common_bounds("coupled", (self._ratio_min, self._ratio_max), bounds)
        fraction = (low + (high - low) * unit_ratio(mask_ratio, bounds))[None]
        scored = row.scored_mask[None]
        masked, fraction = self._mask(scored, fraction, [generator])
        views = torch.stack([scored, masked, scored & ~masked])
        rate = torch.stack([torch.ones_like(fraction), fraction, 1 - fraction])
        return span_views(views[:, 0], coupled_weights(views, fraction)[:, 0], rate, row)

    def _mask(
        self, scored: Bool[Tensor, "B L"], fraction: Float[Tensor, " B"], generators: Sequence[torch.Generator]
    ) -> tuple[Bool[Tensor, "B L"], Float[Tensor, " B"]]:
        """Returns a mask of each row, and t."""
        draws = uniform_draws(scored, generators)
        if self._masking == "exact_count":
            masked = exact_count_mask(draws, fraction, scored)
            return masked, masked.sum(dim=1) / scored.sum(dim=1).clamp(min=1)
        # Forcing a token into an empty mask would bias the weights 1 / t; the fully masked view scores it anyway.
        return bernoulli_mask(draws, fraction, scored, at_least_one=False), fraction


def coupled_weights(views: Bool[Tensor, "3 B L"], fraction: Float[Tensor, " B"]) -> Float[Tensor, "3 B L"]:
    """Returns the weights 1/2 in the fully masked view, 1/(2t) in the mask and 1/(2(1 - t)) in its complement."""
    weight = 0.5 / torch.stack([torch.ones_like(fraction), fraction, 1 - fraction])
    return torch.where(views, weight[:, :, None], 0.0)
