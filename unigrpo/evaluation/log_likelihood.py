"""Estimates of the log-likelihood of given responses. A masked-diffusion model has no closed form for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unigrpo.training.batching import micro_batches


@dataclass(frozen=True, kw_only=True)
class TraceLikelihood:
    """Log-likelihood of a response when its tokens are revealed in one order."""

    nats: float
    """Sum of the log-probabilities of the tokens, each at the step that reveals it; nats."""
    is_greedy: bool
    """Whether every token was the most likely one at its step."""


@torch.no_grad()
def bound_log_likelihood(
    model: Callable[..., Any],
    prompt: Int[Tensor, " P"],
    response: Int[Tensor, " R"],
    mask_id: int,
    *,
    num_samples: int,
    batch_size: int,
    generator: torch.Generator,
) -> float:
    """Returns a Monte-Carlo estimate of the lower bound of the log-likelihood of a response.

    Source: LLaDA (arXiv:2502.09992), equation 6 and Algorithm 3: the number l of masked tokens is uniform in 1..R, the
    l tokens are chosen without replacement, and the log-probabilities of the masked tokens count R / l. Here the
    numbers l of the samples are spread evenly over 1..R from one random start. Each is still uniform, and the variance
    is lower.

    Args:
        model: The forward pass of :class:`~unigrpo.models.mmada.MMadaModelLM`.
        prompt: Tokens before the response, which are never masked.
        response: At least one token.
        mask_id: The mask token.
        num_samples: Number of masked copies; the source uses 128.
        batch_size: Number of copies of one forward pass.
        generator: Random numbers, on the CPU.

    Returns:
        The estimate in nats.
    """
    length = len(response)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    numbers = (
        ((torch.arange(num_samples, dtype=torch.float64) + start) / num_samples * length).long().clamp(max=length - 1)
    )
    numbers = numbers + 1
    order = torch.rand(num_samples, length, generator=generator).argsort(dim=1).argsort(dim=1)
    is_masked = order < numbers[:, None]
    total = 0.0
    device = getattr(model, "device", torch.device("cpu"))
    for rows in micro_batches(range(num_samples), batch_size):
        masked, weight = is_masked[list(rows)], length / numbers[list(rows)].double()
        clean = torch.cat([prompt, response]).expand(len(rows), -1)
        positions = torch.cat([torch.zeros(len(rows), len(prompt), dtype=torch.bool), masked], dim=1)
        log_probs = model(
            clean.masked_fill(positions, mask_id).to(device),
            positions=positions.to(device),
            targets=clean[positions].to(device),
        ).log_probs
        total += float((log_probs.cpu().double() * weight.repeat_interleave(masked.sum(dim=1))).sum())
    return total / num_samples


@torch.no_grad()
def trace_log_likelihood(
    model: Callable[..., Any],
    prompt: Int[Tensor, " P"],
    response: Int[Tensor, " R"],
    mask_id: int,
    *,
    tokens_per_step: int = 1,
) -> TraceLikelihood:
    """Returns the log-likelihood of a response in the order in which the model is most confident.

    The whole response is masked at first. In each step the model predicts all masked tokens; the positions of its most
    probable predictions are filled with the tokens of the response, whose log-probabilities are added. This is the
    order of the `low_confidence` sampler. With one token per step it is the exact log-probability of a chain with this
    order.

    Args:
        model: The forward pass of :class:`~unigrpo.models.mmada.MMadaModelLM`.
        prompt: Tokens before the response.
        response: At least one token.
        mask_id: The mask token.
        tokens_per_step: Number of tokens that a step reveals.
    """
    device = getattr(model, "device", torch.device("cpu"))
    tokens = torch.cat([prompt, response]).to(device)
    masked = torch.cat([torch.zeros_like(prompt), torch.ones_like(response)]).bool().to(device)
    nats, is_greedy = 0.0, True
    while masked.any():
        row = tokens.masked_fill(masked, mask_id)[None]
        log_probs = model(row, positions=masked[None]).logits.float().log_softmax(dim=-1)
        best, guesses = log_probs.max(dim=-1)
        chosen = best.argsort(descending=True, stable=True)[:tokens_per_step]
        places = masked.nonzero()[:, 0][chosen]
        own = tokens[places]
        nats += float(log_probs[chosen, own].double().sum())
        is_greedy &= bool((guesses[chosen] == own).all())
        masked[places] = False
    return TraceLikelihood(nats=nats, is_greedy=is_greedy)
