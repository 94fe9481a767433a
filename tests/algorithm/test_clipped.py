"""Compares the clipped surrogate with a loop, with finite differences and with OpenRLHF's PolicyLoss."""

from __future__ import annotations

import math

import pytest
import torch

from unigrpo.algorithm.objective.clipped import Surrogate, clipped_surrogate
from unigrpo.rng import keyed_generator


def surrogate(new, old, advantages, clip_low=0.2, clip_high=0.2) -> Surrogate:
    return clipped_surrogate(new - old, advantages, clip_low, clip_high)


@pytest.fixture
def batch():
    """Returns log-probabilities in float64 that differ so much that some ratios exceed each clip bound."""
    generator = keyed_generator("policy loss")
    shape = (5, 9)
    old = -3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    new = old + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([1.5, -0.7, 0.0, 0.3, -2.0], dtype=torch.float64)[:, None]
    return new, old, advantages


def test_every_token_is_that_of_a_loop(batch):
    new, old, advantages = batch
    result = surrogate(new, old, advantages, clip_low=0.2, clip_high=0.28)
    for row in range(5):
        for token in range(9):
            ratio = math.exp(new[row, token] - old[row, token])
            advantage = advantages[row, 0].item()
            clipped = min(max(ratio, 0.8), 1.28)
            assert result.ratio[row, token].item() == pytest.approx(ratio)
            assert result.loss[row, token].item() == pytest.approx(-min(ratio * advantage, clipped * advantage))
            in_force = (advantage > 0 and ratio > 1.28) or (advantage < 0 and ratio < 0.8)
            assert result.is_clipped[row, token].item() == in_force


def test_a_clipped_token_gives_no_gradient_and_the_others_give_ratio_times_advantage(batch):
    new, old, advantages = batch
    new.requires_grad_()
    result = surrogate(new, old, advantages)
    result.loss.sum().backward()
    follows = ~result.is_clipped
    torch.testing.assert_close(new.grad[follows], (-result.ratio * advantages)[follows])
    assert (new.grad[~follows] == 0).all()
    assert result.is_clipped.any()
    assert follows.any()


def test_the_gradient_is_that_of_finite_differences(batch):
    new, old, advantages = batch
    new.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: surrogate(x, old, advantages).loss, (new,))


def test_advantages_may_differ_by_token(batch):
    new, old, advantages = batch
    spread = advantages * torch.linspace(0.5, 2.0, 9, dtype=torch.float64)
    by_token = surrogate(new, old, spread)
    for token in range(9):
        alone = surrogate(new[:, token, None], old[:, token, None], spread[:, token, None])
        assert torch.equal(alone.loss[:, 0], by_token.loss[:, token])


def test_equal_log_probs_give_ratio_exactly_one_and_minus_the_advantage(batch):
    new, _, advantages = batch
    result = surrogate(new, new.clone(), advantages)
    assert (result.ratio == 1).all()
    assert torch.equal(result.loss, -advantages.expand(new.shape))
    assert not result.is_clipped.any()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [100.0, 1000.0, -1000.0])
def test_an_overflowing_ratio_leaves_loss_and_gradient_finite(advantage, log_ratio):
    new = torch.tensor([[log_ratio, -1.0]], requires_grad=True)
    old = torch.tensor([[0.0, -1.1]])
    result = surrogate(new, old, torch.tensor([[advantage]]))
    (gradient,) = torch.autograd.grad(result.loss.sum(), new)
    assert result.loss.isfinite().all()
    assert result.ratio[0, 0].item() == pytest.approx(math.exp(math.copysign(20, log_ratio)), rel=1e-6)
    assert gradient[0, 0] == 0
    assert gradient[0, 1].item() == pytest.approx(-advantage * math.exp(0.1), rel=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_loss_gradient_and_clip_fraction_are_those_of_openrlhf(batch, openrlhf, level):
    new, old, advantages = batch
    ours, theirs = new.clone().requires_grad_(), new.clone().requires_grad_()
    result = surrogate(ours, old, advantages, clip_low=0.2, clip_high=0.28)
    loss = result.loss.mean()  # rows of equal length: both levels are the mean over all tokens
    loss.backward()

    reference = openrlhf.PolicyLoss(clip_eps_low=0.2, clip_eps_high=0.28, token_level_loss=level == "token")
    expected, clip_fraction, *_ = reference(theirs, old, advantages, action_mask=torch.ones_like(new))
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)  # OpenRLHF adds 1e-8 to the token counts
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-15)
    assert result.is_clipped.double().mean().item() == pytest.approx(clip_fraction.item())
