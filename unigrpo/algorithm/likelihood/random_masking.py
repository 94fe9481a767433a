"""Random masking: several partly masked views; a token's log-probability is the mean over the views that mask it."""

from __future__ import annotations

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
from unigrpo.algorithm.masking import mask_rate, mask_tokens


class RandomMasking(LikelihoodEstimator):
    """log pi(o_i) = mean over the views v that mask token i of log p(o_i | prompt, xt_v); the prompt is never masked.

    The views of a response are spread evenly over the allowed range of mask ratios: the ratio of view v is that of
    the inner update plus ``v / num_views`` of the range, and wraps around at its end. The range is
    [ratio_min, ratio_max], or the part of it within the bounds of ``algo.mask_ratio``. With the schedule `random`,
    each ratio is uniform in this range, as in the source.

    Args:
        num_views: Number of masked copies of each response, to which the cost is proportional.
        ratio_min: Lowest mask ratio of a view.
        ratio_max: Highest mask ratio of a view.
        masking: `bernoulli` masks each token independently, `exact_count` exactly the rounded fraction.

    Source:
        "Random masking" of dLLM-RL and TraceRL, arXiv:2509.06949: ratio uniform in [0.1, 0.9], two views. There the
        views are independent, and each is a row of the loss, as with ``algo.objective.level`` `view_token`.
    """

    def __init__(
        self,
        num_views: int = 2,
        ratio_min: float = 0.1,
        ratio_max: float = 0.9,
        masking: str = "bernoulli",
    ) -> None:
        check_masking("random_masking", masking)
        if num_views < 1:
            raise ConfigError(f"random_masking: num_views is {num_views}; use at least 1")
        if not 0 <= ratio_min <= ratio_max <= 1:
            raise ConfigError(
                f"random_masking: ratio_min {ratio_min} and ratio_max {ratio_max} must satisfy "
                "0 <= ratio_min <= ratio_max <= 1"
            )
        self._num_views = num_views
        self._ratio_min, self._ratio_max = ratio_min, ratio_max
        self._masking: str = masking

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        low, high = common_bounds("random_masking", (self._ratio_min, self._ratio_max), bounds)
        unit = unit_ratio(mask_ratio, bounds)
        ratios = [low + (high - low) * _rotate(unit, view / self._num_views) for view in range(self._num_views)]
        scored = row.scored_mask[None]
        is_masked = torch.cat([mask_tokens(scored, ratio[None], [generator], self._masking) for ratio in ratios])
        rate = torch.cat([mask_rate(scored, ratio[None, None], self._masking) for ratio in ratios])
        return span_views(is_masked, mean_over_views(is_masked), rate, row)


def mean_over_views(is_masked: Bool[Tensor, "V *rows L"]) -> Float[Tensor, "V *rows L"]:
    """Returns weights that average each token over the views that mask it."""
    return is_masked / is_masked.sum(dim=0).clamp(min=1)


def _rotate(mask_ratio: Float[Tensor, "*B"], offset: float) -> Float[Tensor, "*B"]:
    """Returns ``mask_ratio + offset`` wrapped into [0, 1]; the ratio 1 itself is not wrapped."""
    moved = mask_ratio + offset
    return torch.where(moved > 1, moved - 1, moved)
