"""Compares the logits of the head with bfloat16 weights with those in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from unigrpo.models.output_head import Head
from unigrpo.models.wide_linear import wide_linear

WIDTH, VOCABULARY, NUM_TOKENS = 256, 512, 48


def parts() -> tuple[Tensor, Tensor, Tensor]:
    """Returns hidden states, head and targets in bfloat16. Each target and one other id have logits near 20."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(NUM_TOKENS, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator) * 0.02
    targets, rivals = torch.randperm(VOCABULARY, generator=generator)[: 2 * NUM_TOKENS].chunk(2)
    weight[targets] += hidden * 20 / WIDTH
    weight[rivals] += hidden * 19.7 / WIDTH
    return hidden.bfloat16(), weight.bfloat16(), targets


def exact(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return (hidden.double() @ weight.double().T / 1.5).log_softmax(-1).gather(1, targets[:, None])[:, 0]


def test_log_probabilities_of_bfloat16_weights_have_the_precision_of_float32() -> None:
    hidden, weight, targets = parts()
    head = Head(WIDTH, VOCABULARY, bias=False, dtype=torch.bfloat16)
    head.weight.data = weight
    found = head(hidden, targets=targets, temperatures=torch.full((NUM_TOKENS,), 1.5))
    assert (found - exact(hidden, weight, targets)).abs().max() < 1e-5
    logits = torch.nn.functional.linear(hidden, weight)
    rounded = (logits.float() / 1.5).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert (rounded - exact(hidden, weight, targets)).abs().max() > 0.01


def test_a_small_step_changes_the_ratio() -> None:
    """The rounding of bfloat16 logits is larger than log-ratios of 0.001."""
    hidden, weight, targets = parts()
    moved = (hidden.float() + 0.01 * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).bfloat16()
    expected = exact(moved, weight, targets) - exact(hidden, weight, targets)

    def log_ratio(rounds: bool) -> Tensor:
        def log_probs(x: Tensor) -> Tensor:
            logits = wide_linear(x, weight)
            logits = logits.bfloat16().float() if rounds else logits
            return (logits / 1.5).log_softmax(-1).gather(1, targets[:, None])[:, 0]

        return log_probs(moved) - log_probs(hidden)

    size = expected.square().mean().sqrt()
    assert (log_ratio(False) - expected).square().mean().sqrt() < 1e-2 * size
    assert (log_ratio(True) - expected).square().mean().sqrt() > 0.2 * size


def test_gradients_are_those_of_a_linear_layer() -> None:
    hidden, weight, _ = parts()
    hidden.requires_grad_()
    weight.requires_grad_()
    seed = torch.randn(NUM_TOKENS, VOCABULARY, generator=torch.Generator().manual_seed(2)).bfloat16()
    found = torch.autograd.grad(wide_linear(hidden, weight), (hidden, weight), seed.float())
    expected = torch.autograd.grad(torch.nn.functional.linear(hidden, weight), (hidden, weight), seed)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other)
