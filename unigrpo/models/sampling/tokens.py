"""Sampling of one random token for each row of logits, the noise for it, and the probability of a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sample_top_p(logits: Float[Tensor, "N V"], top_p: float, uniform: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Samples one token per row from the smallest set of tokens whose probability reaches ``top_p``.

    The tokens are sorted by probability. The sample is the token at which the cumulative probability exceeds a uniform
    random number times that of the set (inverse transform sampling). One random number per row is enough.

    Args:
        logits: Logits, already divided by the temperature.
        top_p: Probability of the set, in (0, 1].
        uniform: Uniform random numbers in [0, 1).
    """
    ordered, index = logits.sort(dim=-1, descending=True)
    upto = ordered.softmax(-1).cumsum(-1)
    size = (upto < top_p).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)  # the last place of the set, from 0
    place = torch.searchsorted(upto, uniform[:, None] * upto.gather(-1, size), right=True)
    return index.gather(-1, torch.minimum(place, size))[:, 0]


def exponential_noise(
    counts: Sequence[int], size: int, generators: Sequence[torch.Generator], device: torch.device
) -> Float[Tensor, "N size"]:
    """Returns samples of the exponential distribution with rate 1: ``counts[i]`` rows from ``generators[i]``."""
    noise = torch.empty(sum(counts), size, device=generators[0].device)
    for rows, generator in zip(noise.split(list(counts)), generators, strict=True):
        rows.exponential_(generator=generator)
    return noise.to(device)


def uniform_noise(
    counts: Sequence[int], generators: Sequence[torch.Generator], device: torch.device
) -> Float[Tensor, " N"]:
    """Returns uniform random numbers in [0, 1): ``counts[i]`` of them from ``generators[i]``."""
    numbers = [torch.rand(count, generator=g, device=g.device) for count, g in zip(counts, generators, strict=True)]
    return torch.cat(numbers).to(device)


def sample_tokens(
    logits: Float[Tensor, "N V"], noise: Float[Tensor, "N V"], excluded: int | None = None
) -> Int[Tensor, " N"]:
    """Samples one token per row from the softmax of the logits by an exponential race, which equals adding Gumbel
    noise.

    Args:
        logits: Logits, already divided by the temperature.
        noise: Samples of the exponential distribution with rate 1. They are overwritten.
        excluded: Token that is never sampled.
    """
    scores = noise.log_().neg_().add_(logits)
    if excluded is not None:
        scores[:, excluded] = -torch.inf
    return scores.argmax(dim=-1)


def log_prob_and_entropy(
    logits: Float[Tensor, "N V"], tokens: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Returns the log-probability of a token of each row, and the entropy of the row (nats).

    The entropy is ``log Z - sum p logits``, which takes one copy of the logits.
    """
    probabilities = logits.log_softmax(-1)
    log_probs = probabilities.gather(1, tokens[:, None])[:, 0]
    log_normaliser = logits.gather(1, tokens[:, None])[:, 0] - log_probs
    mean = probabilities.exp_().mul_(logits).sum(-1)
    return log_probs, (log_normaliser - mean).clamp(min=0)
