"""Compares KL estimators with the exact divergence, finite differences and OpenRLHF's compute_approx_kl."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from algorithm.objective_batch import (
    BATCH,
    Batch,
    part,
)

from unigrpo.algorithm.kl import exact_kl, kl_estimate
from unigrpo.algorithm.objective.base import KLPenalty
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
    torch.testing.assert_close(estimate, expected, rtol=2e-3, atol=0)  # terms of the next order are smaller by 1e-3


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
def test_k3_is_finite_for_distant_distributions(difference):
    policy = torch.tensor([[-difference]], requires_grad=True)
    value = kl_estimate(-policy, "k3")
    (gradient,) = torch.autograd.grad(value.sum(), policy)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_values_and_gradients_are_those_of_openrlhf(estimator, openrlhf):
    """OpenRLHF computes in float32 and clamps values to +-10, which these values do not reach."""
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


def test_the_exact_kl_has_the_value_and_the_gradient_of_the_divergence():
    generator = keyed_generator("exact")
    logits = torch.randn(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(4, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    value = exact_kl(logits.log_softmax(-1), reference)
    expected = torch.nn.functional.kl_div(reference, logits.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.gradcheck(lambda x: exact_kl(x.log_softmax(-1), reference), (logits,))
    cut = logits.detach().clone()
    cut[:, 0] = -torch.inf  # a token with probability 0
    cut.requires_grad_()
    (gradient,) = torch.autograd.grad(exact_kl(cut.log_softmax(-1), reference).sum(), cut)
    assert gradient.isfinite().all()


def test_only_k2_has_the_gradient_of_the_divergence():
    """Computes the expected gradients of k1, k2 and k3 exactly over a vocabulary of five tokens."""
    generator = keyed_generator("pull")
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    policy = logits.log_softmax(-1)
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(-1)
    forward = (policy.exp() * (policy - reference)).sum()
    backward = (reference.exp() * (reference - policy)).sum()
    (of_forward,) = torch.autograd.grad(forward, logits, retain_graph=True)
    (of_backward,) = torch.autograd.grad(backward, logits, retain_graph=True)
    for estimator, expected in (("k1", torch.zeros(5).double()), ("k2", of_forward), ("k3", of_backward)):
        values = kl_estimate(reference - policy, estimator)
        (gradient,) = torch.autograd.grad((policy.exp().detach() * values).sum(), logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_k1_is_refused_as_a_loss():
    with pytest.raises(ValueError, match=r"algo.kl.estimator is 'k1', whose gradient is 0.*'exact', 'k2', 'k3'"):
        KLPenalty(estimator="k1")
    with pytest.raises(ValueError, match="no 'k4'"):
        KLPenalty(estimator="k4")
    with pytest.raises(ValueError, match="exact needs the KL of whole distributions"):
        KLPenalty(estimator="exact")(
            dataclasses.replace(BATCH.entries, exact_kl=None), BATCH.columns, BATCH.counts(), "token_mean"
        )


def test_samples_without_a_reference_have_no_kl_and_a_reference_of_nan_gives_nan():
    has_ref = BATCH.entries.sample != 2
    some = Batch(dataclasses.replace(BATCH.entries, has_ref=has_ref), BATCH.columns)
    kl, counts = KLPenalty(), BATCH.counts()
    share, sums = kl(some.entries, some.columns, counts, "masked_token_mean")
    whole, _ = kl(BATCH.entries, BATCH.columns, counts, "masked_token_mean")
    own = part(BATCH, [2])
    alone, _ = kl(own.entries, own.columns, counts, "masked_token_mean")
    assert share.item() == pytest.approx((whole - alone).item())
    compared = part(BATCH, [0, 1, 3, 4, 5])
    _, expected = kl(compared.entries, compared.columns, counts, "masked_token_mean")
    assert sums.metrics()["kl/reference_nats"] == pytest.approx(expected.metrics()["kl/reference_nats"])
    assert BATCH.entries.ref is not None
    broken = dataclasses.replace(some.entries, ref=BATCH.entries.ref * math.nan)
    assert kl(broken, some.columns, counts, "masked_token_mean")[0].isnan()
