"""UniGRPO: one partly masked view of the response; the hidden tokens are scored."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo.algorithm.likelihood.base import (
    LikelihoodEstimator,
    check_masking,
    response_plan,
)
from unigrpo.algorithm.masking import hide
from unigrpo.records import MaskPlan, SequenceMasks


class MaskedTokens(LikelihoodEstimator):
    """log pi(o_i) = log p(o_i | prompt, xt) for the hidden tokens i of one view xt; the prompt is never hidden.

    Args:
        masking: `bernoulli` hides each token by chance, `exact_count` exactly the rounded share.

    Source:
        UniGRPO, arXiv:2505.15809, equations 3 and 4. Its mean over the hidden tokens is left to the reduction of the
        loss, since the clipped ratio is taken per token.
    """

    def __init__(self, masking: str = "bernoulli") -> None:
        check_masking("masked_tokens", masking)
        self._masking: str = masking

    def draw(
        self, masks: SequenceMasks, mask_ratio: Float[Tensor, " B"], generators: Sequence[torch.Generator]
    ) -> MaskPlan:
        hidden = hide(masks.scored_mask, mask_ratio, generators, self._masking)
        return response_plan(hidden[None], hidden.float()[None], masks)
