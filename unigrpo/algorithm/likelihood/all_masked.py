"""diffu-GRPO: the whole response masked, and some of the prompt."""

from __future__ import annotations

import torch

from unigrpo import ConfigError
from unigrpo.algorithm.likelihood.base import LikelihoodEstimator, Row, Views, span_views
from unigrpo.algorithm.masking import bernoulli_mask, uniform_draws


class AllMasked(LikelihoodEstimator):
    """log pi(o_i) = log p(o_i | partly masked prompt, nothing of the response), for all tokens in one pass.

    The mask ratio of the inner update is not used. Every inner update has its own mask of the prompt. All tokens on
    which the response is conditioned are part of the prompt here, including task tokens, the codes of an input image,
    and the thoughts before an image.

    Args:
        prompt_mask_ratio: Probability of masking a prompt token; 0 keeps the whole prompt visible.

    Source:
        diffu-GRPO of d1, arXiv:2504.12216: each prompt token masked with probability 0.15.
    """

    def __init__(self, prompt_mask_ratio: float = 0.15) -> None:
        if not 0 <= prompt_mask_ratio <= 1:
            raise ConfigError(f"all_masked: prompt_mask_ratio is {prompt_mask_ratio}; it must lie in [0, 1]")
        self._prompt_mask_ratio = prompt_mask_ratio

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        prompt = ~row.response_mask[None]
        masked_prompt = bernoulli_mask(
            uniform_draws(prompt, [generator]), torch.tensor([self._prompt_mask_ratio]), prompt, at_least_one=False
        )
        return span_views(masked_prompt | row.response_mask, row.scored_mask[None].float(), 1.0, row)
