"""SPG: each view masks a part of one block of the response, as in a sampler that generates block by block."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.likelihood.base import LikelihoodEstimator, Row, Views, span_views
from unigrpo.algorithm.masking import lowest_draws, uniform_draws


class BlockMasks(LikelihoodEstimator):
    """Each view masks a part of one block of the response and all tokens after it; tokens before it are visible.

    The number of masked tokens of the block is uniform between 1 (or the lowest fraction that ``algo.mask_ratio``
    allows) and all of them (or the highest fraction). The views of a response use different blocks until all blocks
    were chosen. Every masked token is scored, including those after the block. ``rate`` is the fraction of masked
    tokens of the view, and the weight of a token is 1 / (rate x number of views): the weighted sum divided by the
    number of tokens is the mean over the views of the mean log-probability of their masked tokens. The mask ratio of
    the inner update is not used. The codes of an image are one block.

    Args:
        num_views: Number of masked copies of each response.
        block_length: Number of tokens of a block, preferably that of ``rollout.text``.
        context_mask_ratio: Probability of masking a token of the prompt, or of the response before the block. Such
            tokens of the response are scored, too.

    Source:
        SPG, arXiv:2510.09541, and its released code: two views, blocks of 32, 0.15. Use it with the objective
        `sandwich`.
    """

    def __init__(self, num_views: int = 2, block_length: int = 32, context_mask_ratio: float = 0.15) -> None:
        if num_views < 1:
            raise ConfigError(f"block_masks: num_views is {num_views}; use at least 1")
        if block_length < 1:
            raise ConfigError(f"block_masks: block_length is {block_length}; use at least 1")
        if not 0 <= context_mask_ratio <= 1:
            raise ConfigError(f"block_masks: context_mask_ratio is {context_mask_ratio}; it must lie in [0, 1]")
        self._num_views, self._block_length = num_views, block_length
        self._context_mask_ratio = context_mask_ratio

    def span_views(
        self, row: Row, mask_ratio: float, generator: torch.Generator, bounds: tuple[float, float]
    ) -> Views:
        number = int(row.scored_mask.sum())
        if number == 0:
            return Views.joined([], len(row.token_ids))
        length = number if row.image_mask.any() else self._block_length
        # A token's place in the response; the padding follows after it, which is masked anyway.
        block = torch.where(row.response_mask, (row.response_mask.cumsum(0) - 1) // length, -1)
        views = [
            self._view(row, block, int(one), generator, bounds)
            for one in _blocks(-(-number // length), self._num_views, generator)
        ]
        return Views.joined(views, len(row.token_ids))

    def _view(
        self,
        row: Row,
        block: Int[Tensor, " L"],
        number: int,
        generator: torch.Generator,
        bounds: tuple[float, float],
    ) -> Views:
        inside = row.scored_mask & (block == number)
        size = int(inside.sum())
        fewest, most = max(int(size * bounds[0]), 1), max(int(size * bounds[1]), 1)
        count = int(torch.randint(fewest, most + 1, (), generator=generator))
        chosen = lowest_draws(uniform_draws(inside[None], [generator]), torch.tensor([count]), inside[None])[0]
        before = block < number
        context = uniform_draws(before[None], [generator])[0] < self._context_mask_ratio
        is_masked = chosen | (row.response_mask & (block > number)) | (before & context)
        return block_view(is_masked, row, self._num_views)


def block_view(is_masked: Bool[Tensor, " L"], row: Row, num_views: int) -> Views:
    """Returns one of ``num_views`` views, which scores all response tokens that it masks up to the first
    end-of-text."""
    scored = is_masked & row.scored_mask
    fraction = scored.sum() / row.scored_mask.sum()
    weight = scored / fraction / num_views
    return span_views(is_masked[None], weight[None], fraction, row)


def _blocks(number: int, num_views: int, generator: torch.Generator) -> Int[Tensor, " V"]:
    """Returns a block for each view. The blocks differ, or with more views than blocks are used almost equally
    often."""
    rounds = [torch.randperm(number, generator=generator) for _ in range(-(-num_views // number))]
    return torch.cat(rounds)[:num_views]
