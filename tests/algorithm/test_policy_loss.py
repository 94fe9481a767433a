"""The clipped surrogate against a loop, finite differences, and OpenRLHF's PolicyLoss."""

from __future__ import annotations

import math

import pytest
import torch

from unigrpo.algorithm.policy_loss import policy_loss
from unigrpo.rng import keyed_generator


@pytest.fixture
def batch():
    """Log-probabilities far enough apart that both clips are in force somewhere, float64."""
    generator = keyed_generator("policy loss")
    shape = (5, 9)
    old = -3 * torch.rand(shape, generator=generator, dtype=torch.float64)
    new = old + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64)
    advantages = torch.tensor([1.5, -0.7, 0.0, 0.3, -2.0], dtype=torch.float64)[:, None]
    scored = torch.rand(shape, generator=generator) < 0.6
    return new, old, advantages, scored


def test_every_token_is_that_of_a_loop(batch):
    new, old, advantages, scored = batch
    result = policy_loss(new, old, advantages, scored, clip_low=0.2, clip_high=0.28)
    for row in range(5):
        for token in range(9):
            if not scored[row, token]:
                assert result.loss[row, token] == 0
                assert result.ratio[row, token] == 0
                assert not result.is_clipped[row, token]
                continue
            ratio = math.exp(new[row, token] - old[row, token])
            advantage = advantages[row, 0].item()
            clipped = min(max(ratio, 0.8), 1.28)
            assert result.ratio[row, token].item() == pytest.approx(ratio)
            assert result.loss[row, token].item() == pytest.approx(-min(ratio * advantage, clipped * advantage))
            in_force = (advantage > 0 and ratio > 1.28) or (advantage < 0 and ratio < 0.8)
            assert result.is_clipped[row, token].item() == in_force


def test_a_clipped_token_gives_no_gradient_and_the_others_give_ratio_times_advantage(batch):
    new, old, advantages, scored = batch
    new.requires_grad_()
    result = policy_loss(new, old, advantages, scored)
    result.loss.sum().backward()
    follows = scored & ~result.is_clipped
    torch.testing.assert_close(new.grad[follows], (-result.ratio * advantages)[follows])
    assert (new.grad[~follows] == 0).all()
    assert result.is_clipped.any()
    assert follows.any()


def test_the_gradient_is_that_of_finite_differences(batch):
    new, old, advantages, scored = batch
    new.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy_loss(x, old, advantages, scored).loss, (new,))


def test_advantages_may_differ_by_token(batch):
    new, old, advantages, scored = batch
    spread = advantages * torch.linspace(0.5, 2.0, 9, dtype=torch.float64)
    by_token = policy_loss(new, old, spread, scored)
    for token in range(9):
        alone = policy_loss(
            new[:, token : token + 1], old[:, token : token + 1], spread[:, token : token + 1], scored[:, token, None]
        )
        assert torch.equal(alone.loss[:, 0], by_token.loss[:, token])


def test_equal_log_probs_give_ratio_exactly_one_and_minus_the_advantage(batch):
    new, _, advantages, scored = batch
    result = policy_loss(new, new.clone(), advantages, scored)
    assert (result.ratio[scored] == 1).all()
    assert torch.equal(result.loss, torch.where(scored, -advantages, 0.0))
    assert not result.is_clipped.any()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [100.0, 1000.0, -1000.0])
def test_an_overflowing_ratio_leaves_loss_and_gradient_finite(advantage, log_ratio):
    new = torch.tensor([[log_ratio, -1.0]], requires_grad=True)
    old = torch.tensor([[0.0, -1.1]])
    result = policy_loss(new, old, torch.tensor([[advantage]]), torch.tensor([[True, True]]))
    (gradient,) = torch.autograd.grad(result.loss.sum(), new)
    assert result.loss.isfinite().all()
    assert result.ratio[0, 0].item() == pytest.approx(math.exp(math.copysign(20, log_ratio)), rel=1e-6)
    assert gradient[0, 0] == 0
    assert gradient[0, 1].item() == pytest.approx(-advantage * math.exp(0.1), rel=1e-6)


def test_what_is_not_scored_may_be_anything():
    new = torch.tensor([[torch.nan, -torch.inf, -1.0]], requires_grad=True)
    old = torch.tensor([[0.0, torch.inf, -1.0]])
    result = policy_loss(new, old, torch.tensor([[2.0]]), torch.tensor([[False, False, True]]))
    (gradient,) = torch.autograd.grad(result.loss.sum(), new)
    assert result.loss.tolist() == [[0.0, 0.0, -2.0]]
    assert gradient.tolist() == [[0.0, 0.0, -2.0]]


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_loss_gradient_and_clip_fraction_are_those_of_openrlhf(batch, openrlhf, level):
    new, old, advantages, scored = batch
    ours, theirs = new.clone().requires_grad_(), new.clone().requires_grad_()
    result = policy_loss(ours, old, advantages, scored, clip_low=0.2, clip_high=0.28)
    summed = result.loss.sum(dim=1)
    loss = summed.sum() / scored.sum() if level == "token" else (summed / scored.sum(dim=1)).mean()
    loss.backward()

    reference = openrlhf.PolicyLoss(clip_eps_low=0.2, clip_eps_high=0.28, token_level_loss=level == "token")
    expected, clip_fraction, *_ = reference(theirs, old, advantages, action_mask=scored)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)  # it adds 1e-8 to the token counts
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-15)
    assert (result.is_clipped.sum() / scored.sum()).item() == pytest.approx(clip_fraction.item())
