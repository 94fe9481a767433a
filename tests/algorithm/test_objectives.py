"""Tests that every file with an objective must pass."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithm.objective_batch import (
    BATCH,
    Batch,
    dense,
    loss_and_gradient,
    make_batch,
    part,
    whole_loss,
    with_log_probs,
)
from algorithm.version_0_1 import version_0_1

from unigrpo import algorithm, plugins
from unigrpo.algorithm.entries import (
    REDUCTIONS,
)
from unigrpo.algorithm.likelihood import base as likelihood
from unigrpo.algorithm.objective.base import PACKAGE, KLPenalty, load_objective, total_loss
from unigrpo.algorithm.two_pass import coefficients
from unigrpo.config.algo import LEVELS

NAMES = plugins.available(PACKAGE)


def takes_level(name):
    return "level" in inspect.signature(type(load_objective(name, {}))).parameters


CASES = [
    pytest.param(name, {"level": level} if takes_level(name) else {}, id=f"{name}-{level}")
    for name in NAMES
    for level in (LEVELS if takes_level(name) else ("own",))
]


@pytest.mark.parametrize(
    ("package", "heading"), [(PACKAGE, "Objectives"), (likelihood.PACKAGE, "Likelihood estimators")]
)
def test_the_paper_index_has_a_row_for_every_file(package, heading):
    index = Path(inspect.getfile(algorithm)).with_name("README.md").read_text(encoding="utf-8")
    section = index.split(f"## {heading}\n")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == plugins.available(package)


def test_all_levels_of_every_objective_are_tested():
    assert len(CASES) >= 4 * len(LEVELS) + 2
    assert {case.values[0] for case in CASES} == set(NAMES)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_gradient_is_that_of_finite_differences(name, options):
    """Ratios that are constants for the gradient are kept at 1 in the finite differences."""
    objective = load_objective(name, options)
    batch = part(make_batch(num_views=2), [0, 1, 4])
    kl, how = KLPenalty(level=options.get("level", "token")), "masked_token_mean"
    start = batch.entries.log_probs
    loss, gradient, _ = loss_and_gradient(batch, objective, kl, how)
    assert loss.isfinite()
    assert (gradient != 0).any()
    if name in ("cispo", "unconditional_clip"):
        entries = dataclasses.replace(batch.entries, old=start.clone())  # every ratio is 1
        function = whole_loss(Batch(entries, batch.columns), objective, kl, how)

        def held_ratio(x):
            return function(dataclasses.replace(entries, log_probs=x, old=x.detach()))[0]

        assert torch.autograd.gradcheck(held_ratio, (start.clone().requires_grad_(),))
        return
    function = whole_loss(batch, objective, kl, how)
    assert torch.autograd.gradcheck(lambda x: function(with_log_probs(batch, x))[0], (start.clone().requires_grad_(),))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_gradient_in_two_passes_is_that_in_one(name, options):
    """The log-probabilities come from a small network, and the chunks of entries split units."""
    objective, batch = load_objective(name, options), BATCH
    kl = KLPenalty(estimator="exact", level="sequence")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    features = torch.randn(len(batch.entries), 5, dtype=torch.float64)

    def score(index):
        out = network(features[index])
        return torch.nn.functional.logsigmoid(out[:, 0]), out[:, 1].square()

    everything = torch.arange(len(batch.entries))
    function = whole_loss(batch, objective, kl)
    log_probs, divergence = score(everything)
    entries = dataclasses.replace(
        batch.entries, log_probs=log_probs, exact_kl=divergence, old=log_probs.detach() + 0.1
    )
    loss, sums = function(entries)
    expected = torch.autograd.grad(loss, list(network.parameters()))
    found = coefficients(function, dataclasses.replace(entries, log_probs=log_probs.detach()))
    gradients = [torch.zeros_like(p) for p in network.parameters()]
    for chunk in everything.split(5):
        share = found.surrogate(chunk, *score(chunk))
        for total, one in zip(gradients, torch.autograd.grad(share, list(network.parameters())), strict=True):
            total += one
    assert found.loss == loss
    assert found.sums.metrics() == sums.metrics()
    for one, two in zip(expected, gradients, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("how", REDUCTIONS)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_passes_add_up_to_the_whole_batch(name, options, how):
    objective = load_objective(name, options)
    loss, gradient, sums = loss_and_gradient(BATCH, objective, how=how)
    cuts = [[0, 1], [2, 3, 4, 5]] if objective.scope == "group" else [[0], [1, 2, 3], [4, 5]]
    losses, gradients, added = [], [], None
    for samples in cuts:
        shard = part(BATCH, samples)
        leaf = shard.entries.log_probs.clone().requires_grad_()
        one, more = total_loss(objective, KLPenalty(), with_log_probs(shard, leaf), shard.columns, BATCH.counts(), how)
        losses.append(one.detach())
        gradients.append(torch.autograd.grad(one, leaf)[0])
        added = more if added is None else added + more
    torch.testing.assert_close(torch.stack(losses).sum(), loss)
    torch.testing.assert_close(torch.cat(gradients), gradient)
    assert added is not None
    again = added.unpacked(added.packed())  # the form in which ranks exchange sums
    assert again.metrics() == pytest.approx(sums.metrics())


@pytest.mark.parametrize("level", ["token", "view_token", "view"])
def test_views_of_one_sample_may_be_in_several_passes_if_units_are_not(level):
    """Each pass returns a partial loss, because the number of units of a sample counts all passes."""
    objective = load_objective("clipped", {"level": level})
    batch = BATCH if level != "token" else make_batch(num_views=1)
    loss, gradient, _ = loss_and_gradient(batch, objective, KLPenalty(level=level))
    shares = []
    for view in range(6):
        at = (batch.entries.view == view).nonzero().flatten()
        leaf = batch.entries.log_probs[at].clone().requires_grad_()
        entries = dataclasses.replace(batch.entries.at(at), log_probs=leaf)
        share, _ = total_loss(
            objective, KLPenalty(level=level), entries, batch.columns, batch.counts(), "masked_token_mean"
        )
        shares.append(share.detach())
        if len(at):
            torch.testing.assert_close(torch.autograd.grad(share, leaf)[0], gradient[at])
    torch.testing.assert_close(torch.stack(shares).sum(), loss)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_order_of_samples_changes_nothing(name, options):
    objective = load_objective(name, options)
    loss, _, sums = loss_and_gradient(BATCH, objective)
    order = [5, 2, 0, 4, 1, 3]
    shuffled = part(BATCH, order)
    again, _, more = loss_and_gradient(shuffled, objective)
    torch.testing.assert_close(again, loss)
    assert more.metrics() == pytest.approx(sums.metrics())


@pytest.mark.parametrize(("name", "options"), CASES)
def test_nothing_scored_gives_zero(name, options):
    nothing = Batch(BATCH.entries.at(torch.zeros(0, dtype=torch.long)), BATCH.columns)
    loss, sums = total_loss(
        load_objective(name, options), KLPenalty(), nothing.entries, nothing.columns, BATCH.counts(), "token_mean"
    )
    assert loss == 0
    assert all(math.isfinite(value) for value in sums.metrics().values())


@pytest.mark.parametrize("how", REDUCTIONS)
@pytest.mark.parametrize("kl_estimator", ["k2", "k3"])
def test_the_token_ratio_is_the_loss_of_version_0_1_bit_for_bit(how, kl_estimator):
    """Compares loss, gradient and metrics in float32. Each response has one span and one view with weight 1."""
    batch = part(make_batch(torch.float32, num_views=1, uniform=True), [0, 1, 2, 3])
    batch = dataclasses.replace(
        batch,
        columns=dataclasses.replace(
            batch.columns,
            advantage=batch.columns.advantage[:, :1],
            num_tokens=batch.columns.num_tokens[:, :1],
            num_views=batch.columns.num_views[:, :1],
            num_units={k: v[:, :1] for k, v in batch.columns.num_units.items()},
        ),
    )
    columns, entries = batch.columns, batch.entries
    leaf = dense(batch, entries.log_probs)[0].requires_grad_()
    scored = dense(batch, entries.weight)[0] > 0
    expected, known = version_0_1(
        leaf,
        dense(batch, entries.old)[0],
        dense(batch, entries.ref)[0],
        columns.advantage[:, 0],
        scored,
        length=8.0,
        clip_low=columns.clip_low,
        clip_high=columns.clip_high,
        kl_coef=columns.kl_coef,
        loss_coef=columns.loss_coef,
        kl_estimator=kl_estimator,
        how=how,
    )
    (gradient,) = torch.autograd.grad(expected, leaf)
    loss, found, sums = loss_and_gradient(batch, load_objective("clipped", {}), KLPenalty(estimator=kl_estimator), how)
    assert torch.equal(found, gradient[entries.sample, entries.position])
    if how == "fixed_length":  # the sum is divided per task, because tasks have their own lengths
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=0)
    else:
        assert loss == expected.detach()
    metrics = sums.metrics()
    assert {name: metrics[name] for name in known} == pytest.approx(known, rel=1e-6)


def test_metrics_are_given_by_task_and_mask_ratio():
    loss, _, sums = loss_and_gradient(BATCH, load_objective("clipped", {"level": "view_token"}))
    metrics = sums.metrics()
    assert metrics["loss/total"] == pytest.approx(loss.item())
    assert metrics["loss/total"] == pytest.approx(metrics["loss/policy"] + metrics["loss/kl"])
    assert metrics["tokens/scored"] == len(BATCH.entries)
    assert BATCH.entries.old is not None
    ratio = (BATCH.entries.weight * (BATCH.entries.log_probs - BATCH.entries.old)).exp()
    assert metrics["ratio/mean"] == pytest.approx(ratio.mean().item())
    assert metrics["ratio/square_mean"] == pytest.approx(ratio.square().mean().item())
    assert metrics["kl/old_nats"] == pytest.approx((ratio - 1 - ratio.log()).mean().item())
    assert {"kl/reference_nats/text", "kl/reference_nats/r2i", "ratio/clipped_fraction/r2i"} <= set(metrics)
    bins = {name: value for name, value in metrics.items() if "_mask_" in name}
    number = (BATCH.entries.rate * 4).long().clamp(max=3)
    assert len(bins) == len(number.unique())


def options_of_wrong_values() -> list[tuple[str, dict[str, Any]]]:
    return [
        ("clipped", {"level": "word"}),
        ("clipped", {"normalise": "length"}),
        ("clipped", {"max_importance": -1.0}),
        ("sandwich", {"beta": 0.5}),
        ("sandwich", {"mix": 1.5}),
        ("cispo", {"level": "batch"}),
    ]


@pytest.mark.parametrize(("name", "options"), options_of_wrong_values())
def test_a_wrong_option_is_refused_with_its_value(name, options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        load_objective(name, options)
