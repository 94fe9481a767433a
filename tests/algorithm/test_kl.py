"""KL estimators against the exact divergence, finite differences, and OpenRLHF's compute_approx_kl."""

from __future__ import annotations

import pytest
import torch

from unigrpo.algorithm.kl import kl_estimate
from unigrpo.rng import keyed_generator

ESTIMATORS = ["k1", "k2", "k3"]


def log_probs(name, shape=(4, 6), dtype=torch.float64):
    return -3 * torch.rand(shape, generator=keyed_generator(name), dtype=dtype)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_expectation_over_all_tokens_is_the_exact_divergence(estimator):
    """Enumerates a vocabulary of six tokens for four pairs of distributions."""
    policy = torch.log_softmax(2 * log_probs("policy"), dim=1)
    reference = torch.log_softmax(2 * log_probs("reference"), dim=1)
    expected = torch.nn.functional.kl_div(reference, policy, reduction="none", log_target=True).sum(dim=1)
    estimate = kl_estimate(reference - policy, estimator)
    torch.testing.assert_close((policy.exp() * estimate).sum(dim=1), expected)


def test_k2_agrees_to_second_order_when_the_distributions_are_close():
    policy = torch.log_softmax(log_probs("policy"), dim=1)
    reference = torch.log_softmax(policy + 1e-3 * log_probs("nudge"), dim=1)
    expected = torch.nn.functional.kl_div(reference, policy, reduction="none", log_target=True).sum(dim=1)
    estimate = (policy.exp() * kl_estimate(reference - policy, "k2")).sum(dim=1)
    torch.testing.assert_close(estimate, expected, rtol=2e-3, atol=0)  # the next order is 1e-3 smaller


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_log_probs_give_exactly_zero(estimator, dtype):
    policy = log_probs("policy", dtype=dtype)
    assert (kl_estimate(policy.clone() - policy, estimator) == 0).all()


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_k2_and_k3_are_never_negative(estimator):
    policy = log_probs("policy", dtype=torch.float32)
    for scale in (1e-6, 1e-3, 1.0, 100.0):
        nudged = policy + scale * torch.randn(4, 6, generator=keyed_generator("nudge"))
        assert (kl_estimate(nudged - policy, estimator) >= 0).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_gradient_is_that_of_finite_differences(estimator):
    policy = log_probs("policy").requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kl_estimate(log_probs("reference") - x, estimator), (policy,))


@pytest.mark.parametrize("difference", [100.0, -100.0, 1e4])
def test_k3_stays_finite_far_away(difference):
    policy = torch.tensor([[-difference]], requires_grad=True)
    value = kl_estimate(-policy, "k3")
    (gradient,) = torch.autograd.grad(value.sum(), policy)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_and_gradients_are_those_of_openrlhf(estimator, openrlhf):
    """It works in float32 and holds values within +-10, which these do not reach."""
    reference = log_probs("reference", dtype=torch.float32)
    ours, theirs = (log_probs("policy", dtype=torch.float32).requires_grad_() for _ in range(2))
    value = kl_estimate(reference - ours, estimator)
    expected = openrlhf.compute_approx_kl(theirs, reference, kl_estimator=estimator)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_an_unknown_estimator_is_named_with_the_right_ones():
    with pytest.raises(ValueError, match=r"no 'k4'; choose one of \['k1', 'k2', 'k3'\]"):
        kl_estimate(log_probs("b") - log_probs("a"), "k4")
