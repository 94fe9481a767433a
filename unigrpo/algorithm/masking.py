"""Structured masking: the mask ratios of the inner updates, and the masked views xt of a clean sequence x0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo import ConfigError

NUM_TIMESTEPS = 1000
"""T, into which the ``interpolate`` schedule rounds its ratios (arXiv:2505.15809, section 5.2)."""


def mask_ratios(
    schedule: str,
    num_inner_updates: int,
    generators: Sequence[torch.Generator],
    *,
    minimum: float = 0.0,
    maximum: float = 1.0,
    shuffle: bool = False,
) -> Float[Tensor, "K B"]:
    """Returns the mask ratio of every response in every inner update.

    Args:
        schedule: `stride`, `interpolate` or `random`; see the functions below.
        num_inner_updates: K.
        generators: One generator per response, on which alone its ratios depend.
        minimum: Ratios are mapped linearly from [0, 1] into [minimum, maximum].
        maximum: See ``minimum``.
        shuffle: Whether to shuffle the ratios of each response. Otherwise those of `stride` and `interpolate` rise
            from the first to the last inner update.

    Raises:
        ValueError: Unknown schedule.
    """
    draws = torch.stack([torch.rand(num_inner_updates, generator=g, device=g.device).cpu() for g in generators], dim=1)
    if schedule == "stride":
        ratios = stride_ratios(draws[0] / num_inner_updates, num_inner_updates)
    elif schedule == "interpolate":
        ratios = interpolate_ratios(draws[0], num_inner_updates)
    elif schedule == "random":
        ratios = draws
    else:
        raise ConfigError(f"mask ratio schedule: no {schedule!r}; choose one of ['interpolate', 'random', 'stride']")
    if shuffle:
        orders = torch.stack(
            [torch.randperm(num_inner_updates, generator=g, device=g.device).cpu() for g in generators]
        )
        ratios = ratios.gather(0, orders.T)
    return minimum + (maximum - minimum) * ratios


def stride_ratios(starts: Float[Tensor, " B"], num_inner_updates: int) -> Float[Tensor, "K B"]:
    """Returns ratios in equal steps of 1/K from a start below 1/K, which cover the whole range without repetition.

    >>> stride_ratios(torch.tensor([0.1]), 5).flatten()
    tensor([0.1000, 0.3000, 0.5000, 0.7000, 0.9000])

    Source:
        arXiv:2505.15809, section 5.2, worked example (start 100 of 1000, five updates).
    """
    return starts + torch.arange(num_inner_updates)[:, None] / num_inner_updates


def interpolate_ratios(starts: Float[Tensor, " B"], num_inner_updates: int) -> Float[Tensor, "K B"]:
    """Returns ratios from a start in [0, 1) to 1 in K - 1 equal steps, rounded down to multiples of 1/T.

    >>> interpolate_ratios(torch.tensor([0.1]), 5).flatten()
    tensor([0.1000, 0.3250, 0.5500, 0.7750, 1.0000])

    Source:
        arXiv:2505.15809, Algorithm 1. A single update (K = 1), where its formula divides by 0, uses the start.
    """
    first = (starts.double() * NUM_TIMESTEPS).floor().long()
    update = torch.arange(num_inner_updates)[:, None]
    timesteps = first + update * (NUM_TIMESTEPS - first) // max(num_inner_updates - 1, 1)
    return timesteps / NUM_TIMESTEPS


def uniform_draws(eligible: Bool[Tensor, "B L"], generators: Sequence[torch.Generator]) -> Float[Tensor, "B L"]:
    """Returns a uniform number in [0, 1) for every eligible token, and infinity for the others.

    The numbers of a row depend only on its generator and on the number and order of its eligible tokens, and not on
    padding or other rows.
    """
    draws = torch.full(eligible.shape, torch.inf, device=eligible.device)
    for row, generator in enumerate(generators):
        count = int(eligible[row].sum())
        own = torch.rand(count, generator=generator, device=generator.device)
        draws[row].masked_scatter_(eligible[row], own.to(eligible.device))
    return draws


def bernoulli_mask(
    draws: Float[Tensor, "B L"],
    mask_ratio: Float[Tensor, " B"] | Float[Tensor, "B L"],
    eligible: Bool[Tensor, "B L"],
    *,
    at_least_one: bool = True,
) -> Bool[Tensor, "B L"]:
    """Masks each eligible token whose draw is below the mask ratio, independently of the others.

    Args:
        draws: Uniform in [0, 1).
        mask_ratio: Probability of masking each token, or all tokens of a row.
        eligible: Tokens that may be masked.
        at_least_one: Whether to mask the eligible token with the lowest draw (a uniformly random one) in a row where
            no draw is below the ratio. Use it only if all tokens of a row have the same probability.
    """
    masked = (draws < (mask_ratio[:, None] if mask_ratio.dim() == 1 else mask_ratio)) & eligible
    if at_least_one and not masked.any(dim=1).all():
        masked |= (_ranks(draws, eligible) == 0) & eligible
    return masked


def exact_count_mask(
    draws: Float[Tensor, "B L"], mask_ratio: Float[Tensor, " B"], eligible: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Masks the rounded fraction of the eligible tokens, at least one: those with the lowest draws.

    Args:
        draws: Uniform in [0, 1).
        mask_ratio: Fraction to mask; ``mask_ratio * tokens`` is rounded half to even.
        eligible: Tokens that may be masked and that are counted.
    """
    return lowest_draws(draws, (mask_ratio * eligible.sum(dim=1)).round().clamp(min=1), eligible)


def lowest_draws(
    draws: Float[Tensor, "B L"], count: Float[Tensor, " B"] | Int[Tensor, " B"], eligible: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Returns the ``count`` eligible tokens of each row with the lowest draws, a random subset of this size."""
    return (_ranks(draws, eligible) < count[:, None]) & eligible


def mask_tokens(
    eligible: Bool[Tensor, "B L"],
    mask_ratio: Float[Tensor, " B"],
    generators: Sequence[torch.Generator],
    masking: str,
) -> Bool[Tensor, "B L"]:
    """Masks some of the eligible tokens, at least one in every row with eligible tokens.

    Args:
        eligible: Tokens that may be masked.
        mask_ratio: Fraction (`exact_count`) or probability (`bernoulli`).
        generators: One per row.
        masking: `bernoulli` or `exact_count`.
    """
    draws = uniform_draws(eligible, generators)
    if masking == "exact_count":
        return exact_count_mask(draws, mask_ratio, eligible)
    return bernoulli_mask(draws, mask_ratio, eligible)


def ar_like_probability(eligible: Bool[Tensor, "B L"], mask_ratio: Float[Tensor, " B"]) -> Float[Tensor, "B L"]:
    """Returns the probability of masking each token, which rises linearly along the eligible tokens to 1 for the last.

    The probability of staying visible falls linearly to 0 and has the mean ``1 - mask_ratio``. It is clamped to at
    most 1, so that for mask ratios below 1/2 more tokens are masked than the ratio. A single token is always masked.

    Args:
        eligible: Tokens that may be masked, in the order of reading; the others have the probability 0.
        mask_ratio: Mean probability of being masked.

    Source:
        MaskGRPO, arXiv:2510.02880, the text masks of its released code.
    """
    count = eligible.sum(dim=1, keepdim=True)
    place = eligible.cumsum(dim=1) - 1
    falling = 1 - place / (count - 1).clamp(min=1)  # from 1 to 0, with the mean 1/2
    shown = torch.where(count > 1, falling * (1 - mask_ratio[:, None]) * 2, torch.zeros_like(falling))
    return (1 - shown.clamp(max=1)) * eligible


def mask_rate(eligible: Bool[Tensor, "B L"], probability: Float[Tensor, "B _"], masking: str) -> Float[Tensor, "B L"]:
    """Returns the probability with which :func:`mask_tokens` masks each eligible token; 1 for the others.

    Args:
        eligible: Tokens that may be masked.
        probability: Probability of masking each token, or the fraction to mask (`exact_count`), for each row or each
            token.
        masking: `exact_count`, or the name of a random masking that masks at least one token.
    """
    count = eligible.sum(dim=1, keepdim=True)
    if masking == "exact_count":
        rate = (probability * count).round().clamp(min=1) / count.clamp(min=1)
    else:
        none = torch.where(eligible, 1 - probability, 1.0).prod(dim=1, keepdim=True)
        rate = probability + none / count.clamp(min=1)  # where chance masks none, one of them is masked
    return torch.where(eligible, rate.expand(eligible.shape), 1.0)


def apply_mask(x0: Int[Tensor, "B L"], is_masked: Bool[Tensor, "*V B L"], mask_id: int) -> Int[Tensor, "*V B L"]:
    """Returns the masked views xt: ``x0`` with the mask token where ``is_masked`` is true."""
    return torch.where(is_masked, mask_id, x0)


def _ranks(draws: Float[Tensor, "B L"], eligible: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Returns the rank of each token among the eligible tokens of its row by draw, from 0; ties by position."""
    order = draws.masked_fill(~eligible, torch.inf).argsort(dim=1, stable=True)
    return order.argsort(dim=1)
