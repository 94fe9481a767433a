"""UniGRPO: one partly masked view of the response, whose masked tokens are scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unigrpo.algorithm.likelihood.base import (
    LikelihoodEstimator,
    Row,
    Views,
    check_masking,
    span_views,
)
from unigrpo.algorithm.masking import ar_like_probability, bernoulli_mask, mask_rate, mask_tokens, uniform_draws


class MaskedTokens(LikelihoodEstimator):
    """log pi(o_i) = log p(o_i | prompt, xt) for the masked tokens i of one view xt; the prompt is never masked.

    This is not a lower bound of the response's log-likelihood: the weight of a masked token is 1, not 1 over the mask
    ratio. With ``actor.loss_agg_mode`` `token_mean` or `fixed_length`, the weight of a response is therefore
    proportional to its mask ratio; `masked_token_mean` divides by the number of masked tokens and weights all
    responses equally.

    Args:
        masking: `bernoulli` masks each token independently, `exact_count` masks exactly the rounded fraction, and
            `ar_like` masks each token independently with a probability that rises along the response to 1 for the
            last token.

    Source:
        UniGRPO, arXiv:2505.15809, equations 3 and 4. The reduction of the loss takes the mean over the masked tokens,
        since the clipped ratio is computed per token. `ar_like`: the text masks of MaskGRPO, arXiv:2510.02880, which
        uses them with mask ratios from 0.6 on.
    """

    def __init__(self, masking: str = "bernoulli") -> None:
        check_masking("masked_tokens", masking, ("bernoulli", "exact_count", "ar_like"))
        self._masking: str = masking

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        scored = row.scored_mask[None]
        ratio = torch.tensor([mask_ratio])
        is_masked = self._mask(scored, ratio, [generator])
        probability = ar_like_probability(scored, ratio) if self._masking == "ar_like" else ratio[:, None]
        rate = mask_rate(scored, probability, self._masking)
        return span_views(is_masked, is_masked.float(), rate, row)

    def _mask(
        self, scored: Bool[Tensor, "B L"], mask_ratio: Float[Tensor, " B"], generators: Sequence[torch.Generator]
    ) -> Bool[Tensor, "B L"]:
        if self._masking == "ar_like":
            probability = ar_like_probability(scored, mask_ratio)
            # The last token is always masked, so that none has to be forced in.
            return bernoulli_mask(uniform_draws(scored, generators), probability, scored, at_least_one=False)
        return mask_tokens(scored, mask_ratio, generators, self._masking)
