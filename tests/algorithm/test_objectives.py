"""What every objective file must do; then each against a loop over its paper's formula, and the reductions."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithm.version_0_1 import version_0_1

from unigrpo import algorithm, plugins
from unigrpo.algorithm.advantage.base import group_advantages
from unigrpo.algorithm.entries import (
    LEVELS,
    REDUCTIONS,
    Columns,
    Counts,
    Entries,
    per_unit,
    reduce_units,
    tokens_of,
    unit_counts,
    units,
    unscored_entries,
)
from unigrpo.algorithm.kl import exact_kl, kl_estimate
from unigrpo.algorithm.likelihood import base as likelihood
from unigrpo.algorithm.likelihood.base import Views
from unigrpo.algorithm.objective.base import PACKAGE, KLPenalty, load_objective, total_loss
from unigrpo.algorithm.two_pass import coefficients
from unigrpo.rng import keyed_generator

NAMES = plugins.available(PACKAGE)


def takes_level(name):
    return "level" in inspect.signature(type(load_objective(name, {}))).parameters


CASES = [
    pytest.param(name, {"level": level} if takes_level(name) else {}, id=f"{name}-{level}")
    for name in NAMES
    for level in (LEVELS if takes_level(name) else ("own",))
]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Six samples of two groups and two tasks; the last two have two parts. Views overlap, weights have any size."""

    entries: Entries
    columns: Columns

    def counts(self, levels=LEVELS):
        sizes = {level: tokens_of(units(self.entries, self.columns, level)) for level in levels}
        return Counts(num_responses=float(self.columns.num_samples), num_tokens=sizes)


def make_batch(dtype=torch.float64, num_views=3, uniform=False) -> Batch:
    generator = keyed_generator("objectives", num_views)
    spans = [torch.tensor([0, 0, *[1] * 6, 0])] * 4 + [torch.tensor([0, *[1] * 4, 0, *[2] * 3])] * 2
    views = []
    for span in spans:
        parts = []
        for number in range(1, int(span.max()) + 1):
            inside = span == number
            rate = 0.2 + 0.8 * torch.rand(num_views, 1, generator=generator)
            masked = (torch.rand(num_views, len(span), generator=generator) < rate) & inside
            masked[0, int(inside.nonzero()[0])] = True
            weight = masked * (1.0 if uniform else 0.3 + torch.rand(masked.shape, generator=generator))
            parts.append(Views(is_masked=masked, weight=weight.float(), rate=rate.expand(weight.shape)))
        views.append(Views.joined(parts, len(span)))
    entries = unscored_entries(views, spans)
    count = len(entries)
    draws = torch.rand(5, count, generator=generator, dtype=torch.float64)
    log_probs = -3 * draws[0]
    entries = dataclasses.replace(
        entries,
        log_probs=log_probs.to(dtype),
        old=(log_probs + 0.8 * (draws[1] - 0.5)).to(dtype),
        ref=(log_probs + draws[2] - 0.5).to(dtype),
        behaviour=(log_probs + draws[3] - 0.5).to(dtype),
        exact_kl=draws[4].to(dtype),
        weight=entries.weight.to(dtype),
        rate=entries.rate.to(dtype),
    )

    def column(*values):
        return torch.tensor(values, dtype=dtype)

    columns = Columns(
        advantage=torch.stack([column(1.0, -1.0, 0.5, -2.0, 0.7, -0.7), column(0, 0, 0, 0, 0.2, -0.4)], dim=1),
        group=torch.tensor([4, 4, 9, 9, 7, 7]),
        task=torch.tensor([0, 0, 0, 0, 1, 1]),
        num_tokens=torch.stack([column(6, 6, 6, 6, 4, 4), column(0, 0, 0, 0, 3, 3)], dim=1),
        num_views=torch.stack([column(*[num_views] * 6), column(0, 0, 0, 0, num_views, num_views)], dim=1),
        max_tokens=column(8, 8, 8, 8, 10, 10),
        clip_low=column(0.2, 0.2, 0.2, 0.1, 0.3, 0.2),
        clip_high=column(0.2, 0.28, 0.2, 0.2, 0.2, 0.1),
        kl_coef=column(0.1, 0.1, 0.1, 0.1, 0.0, 0.3),
        loss_coef=column(1.0, 1.0, 1.0, 1.0, 0.5, 0.5),
        num_units={},
        row_length=9,
        tasks=("text", "r2i"),
    )
    num_units = {level: unit_counts(units(entries, columns, level), columns) for level in LEVELS}
    return Batch(entries, dataclasses.replace(columns, num_units=num_units))


BATCH = make_batch()


def whole_loss(batch, objective, kl, how="masked_token_mean"):
    counts = batch.counts()
    return lambda entries: total_loss(objective, kl, entries, batch.columns, counts, how)


def with_log_probs(batch, log_probs):
    return dataclasses.replace(batch.entries, log_probs=log_probs)


def loss_and_gradient(batch, objective, kl=None, how="masked_token_mean"):
    leaf = batch.entries.log_probs.clone().requires_grad_()
    loss, sums = whole_loss(batch, objective, kl or KLPenalty(), how)(with_log_probs(batch, leaf))
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient, sums


def part(batch, samples):
    """Some of the samples as a pass of their own."""
    index = torch.tensor(samples)
    place = torch.full((batch.columns.num_samples,), -1)
    place[index] = torch.arange(len(samples))
    entries = batch.entries.at((place[batch.entries.sample] >= 0).nonzero().flatten())
    entries = dataclasses.replace(entries, sample=place[entries.sample])
    return Batch(entries, batch.columns.at(index, batch.columns.row_length))


@pytest.mark.parametrize(
    ("package", "heading"), [(PACKAGE, "Objectives"), (likelihood.PACKAGE, "Likelihood estimators")]
)
def test_the_paper_index_has_a_row_for_every_file(package, heading):
    index = Path(inspect.getfile(algorithm)).with_name("README.md").read_text(encoding="utf-8")
    section = index.split(f"## {heading}\n")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)) == plugins.available(package)


def test_all_levels_of_every_objective_are_tested():
    assert len(CASES) == 4 * len(LEVELS) + 2


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_gradient_is_that_of_finite_differences(name, options):
    """Ratios that are constants for the gradient are held, by dividing out what they were at the start."""
    objective = load_objective(name, options)
    batch = part(make_batch(num_views=2), [0, 1, 4])
    kl, how = KLPenalty(level=options.get("level", "token")), "masked_token_mean"
    start = batch.entries.log_probs
    loss, gradient, _ = loss_and_gradient(batch, objective, kl, how)
    assert loss.isfinite()
    assert (gradient != 0).any()
    if name in ("cispo", "unconditional_clip"):
        entries = dataclasses.replace(batch.entries, old=start.clone())  # every ratio is 1 here, and stays so below
        batch = Batch(entries, batch.columns)

        def held_ratio(x):
            held = dataclasses.replace(batch, entries=dataclasses.replace(batch.entries, old=x.detach()))
            return whole_loss(held, objective, kl, how)(with_log_probs(held, x))[0]

        assert torch.autograd.gradcheck(held_ratio, (start.clone().requires_grad_(),))
        return
    function = whole_loss(batch, objective, kl, how)
    assert torch.autograd.gradcheck(lambda x: function(with_log_probs(batch, x))[0], (start.clone().requires_grad_(),))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_gradient_in_two_passes_is_that_in_one(name, options):
    """Through a small network, with the entries cut into chunks that tear units apart."""
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
    again = added.unpacked(added.packed())  # as it travels between ranks
    assert again.metrics() == pytest.approx(sums.metrics())


@pytest.mark.parametrize("level", ["token", "view_token", "view"])
def test_views_of_one_sample_may_lie_in_several_passes_where_units_do_not(level):
    """Each pass returns its share, since the number of units of a sample is that of all passes."""
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


def dense(batch, values):
    """(V, B, L), 0 elsewhere."""
    entries, columns = batch.entries, batch.columns
    table = values.new_zeros(int(entries.view.max()) + 1, columns.num_samples, columns.row_length)
    table[entries.view, entries.sample, entries.position] = values
    return table


@pytest.mark.parametrize("how", REDUCTIONS)
@pytest.mark.parametrize("kl_estimator", ["k2", "k3"])
def test_the_token_ratio_is_the_loss_of_version_0_1_bit_for_bit(how, kl_estimator):
    """One view with weight 1 in float32, a response of one part each: loss, gradient and metrics."""
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
    if how == "fixed_length":  # divided before the sum instead of after it, since tasks have lengths of their own
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-6, atol=0)
    else:
        assert loss == expected.detach()
    metrics = sums.metrics()
    assert {name: metrics[name] for name in known} == pytest.approx(known, rel=1e-6)


def samples_of(batch):
    """For loops: each sample's entries by span, as dicts of numbers."""
    entries, columns = batch.entries, batch.columns
    for sample in range(columns.num_samples):
        spans = {}
        for i in range(len(entries)):
            if entries.sample[i] == sample:
                row = {
                    name: getattr(entries, name)[i].item()
                    for name in ("log_probs", "old", "ref", "behaviour", "weight", "rate", "view", "position")
                }
                spans.setdefault(int(entries.span[i]), []).append(row)
        yield sample, spans


def test_gspo_and_espo_are_a_loop_over_sequences():
    """ESPO: ratio of ELBOs over the length, and k2 of the whole ELBO difference over the length."""
    batch, total = part(BATCH, [0, 1, 2, 3]), 0.0
    for sample, spans in samples_of(batch):
        rows = [row for span in spans.values() for row in span]
        length = batch.columns.num_tokens[sample].sum().item()
        ratio = math.exp(sum(r["weight"] * (r["log_probs"] - r["old"]) for r in rows) / length)
        advantage = batch.columns.advantage[sample, 0].item()
        low, high = batch.columns.clip_low[sample].item(), batch.columns.clip_high[sample].item()
        surrogate = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
        kl = sum(r["weight"] * (r["ref"] - r["log_probs"]) for r in rows) ** 2 / 2 / length
        total += (-surrogate + batch.columns.kl_coef[sample].item() * kl) / 4
    loss, _, _ = loss_and_gradient(
        batch, load_objective("clipped", {"level": "sequence"}), KLPenalty(estimator="k2", level="sequence")
    )
    assert loss.item() == pytest.approx(total, rel=1e-12)


def test_a_ratio_by_the_mean_weight_is_the_mean_over_the_scored_tokens():
    batch = part(make_batch(uniform=True), [0, 1])
    objective = load_objective("clipped", {"level": "sequence", "normalise": "weights"})
    found = objective.losses(batch.entries, batch.columns)
    assert found.log_ratio is not None
    for sample, spans in samples_of(batch):
        differences = [r["log_probs"] - r["old"] for r in spans[0]]
        assert found.log_ratio[sample].item() == pytest.approx(sum(differences) / len(differences))


def test_spg_is_a_loop_over_its_bounds():
    beta, mix, total = 1.5, 0.3, 0.0
    for sample, spans in samples_of(BATCH):
        parts = []
        for span, rows in spans.items():
            tokens = BATCH.columns.num_tokens[sample, span].item()
            elbo = sum(r["weight"] * r["log_probs"] for r in rows) / tokens
            bounds = []
            for position in {r["position"] for r in rows}:
                views = [r for r in rows if r["position"] == position]
                mean = sum(math.exp(r["log_probs"]) ** beta / r["rate"] for r in views) / 3
                bounds.append(math.log(mean) / beta)
            eubo = sum(bounds) / len(bounds)
            advantage = BATCH.columns.advantage[sample, span].item()
            parts.append(-advantage * (elbo if advantage >= 0 else mix * eubo + (1 - mix) * elbo))
        total += BATCH.columns.loss_coef[sample].item() * sum(parts) / len(parts) / 6
    without = Batch(dataclasses.replace(BATCH.entries, ref=None, exact_kl=None), BATCH.columns)
    loss, _, _ = loss_and_gradient(without, load_objective("sandwich", {"beta": beta, "mix": mix}))
    assert loss.item() == pytest.approx(total, rel=1e-12)


def test_the_bounds_of_spg_hold_the_log_likelihood_between_them():
    """Enumerated: for one token the two bounds meet it; for independent tokens the lower bound is exact."""
    objective = load_objective("sandwich", {"beta": 1.0, "mix": 1.0})
    log_probs = torch.tensor([-0.7, -0.7], dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    integers = torch.zeros(2, dtype=torch.long)
    entries = Entries(
        log_probs=log_probs, weight=ones / 2, rate=ones, sample=integers, view=torch.tensor([0, 1]),
        position=integers, span=integers,
    )  # fmt: skip
    columns = part(BATCH, [1]).columns
    columns = dataclasses.replace(
        columns, num_views=2 * torch.ones(1, 2).double(), num_tokens=torch.tensor([[1.0, 0.0]]).double()
    )
    found = objective.losses(entries, columns)
    assert found.loss.item() == pytest.approx(-0.7 * 1.0)  # advantage -1: minus (-1) times the bound
    far = dataclasses.replace(entries, log_probs=log_probs - 500)
    assert objective.losses(far, columns).loss.isfinite().all()  # exp(-500) is 0 in any type


def test_wd1_is_a_loop_over_its_weights():
    rewards = torch.tensor([1.0, 0.2, 3.0, 2.5, 0.0, 0.4], dtype=torch.float64)
    groups = BATCH.columns.group
    advantages = group_advantages(rewards, groups, "wd1")
    total = 0.0
    for sample, spans in samples_of(BATCH):
        if sample > 3:
            continue
        mates = [i for i in range(6) if groups[i] == groups[sample]]
        mean = sum(rewards[i].item() for i in mates) / len(mates)
        plus = math.exp(rewards[sample] - mean) / sum(math.exp(rewards[i] - mean) for i in mates)
        minus = math.exp(mean - rewards[sample]) / sum(math.exp(mean - rewards[i]) for i in mates)
        assert advantages[sample].item() == pytest.approx(plus - minus, rel=1e-12)
        tokens = {r["position"] for r in spans[0]}
        log_likelihood = sum(r["weight"] * r["log_probs"] for r in spans[0]) / len(tokens)
        total += (-plus + minus) * log_likelihood / 4
    batch = part(BATCH, [0, 1, 2, 3])
    columns = dataclasses.replace(
        batch.columns, advantage=advantages[:4, None].expand(4, 2), kl_coef=torch.zeros(4).double()
    )
    loss, _, _ = loss_and_gradient(Batch(batch.entries, columns), load_objective("weighted", {}))
    assert loss.item() == pytest.approx(total, rel=1e-12)


def test_gmpo_is_a_loop_over_geometric_means():
    batch, total = part(BATCH, [0, 1, 2, 3]), 0.0
    for sample, spans in samples_of(batch):
        advantage = batch.columns.advantage[sample, 0].item()
        low, high = batch.columns.clip_low[sample].item(), batch.columns.clip_high[sample].item()
        product, tokens = 1.0, {r["position"] for r in spans[0]}
        for position in tokens:
            difference = sum(r["weight"] * (r["log_probs"] - r["old"]) for r in spans[0] if r["position"] == position)
            ratio = math.exp(difference)
            product *= min(ratio, 1 + high) if advantage >= 0 else max(ratio, 1 - low)
        total += -advantage * product ** (1 / len(tokens)) / 4
    without = Batch(dataclasses.replace(batch.entries, ref=None, exact_kl=None), batch.columns)
    loss, _, _ = loss_and_gradient(without, load_objective("geometric", {}))
    assert loss.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("two_sided", [False, True])
def test_cispo_is_a_loop_over_held_weights(two_sided):
    batch, total = part(BATCH, [0, 1, 2, 3]), 0.0
    for sample, spans in samples_of(batch):
        low, high = batch.columns.clip_low[sample].item(), batch.columns.clip_high[sample].item()
        terms = []
        for position in {r["position"] for r in spans[0]}:
            rows = [r for r in spans[0] if r["position"] == position]
            ratio = min(math.exp(sum(r["weight"] * (r["log_probs"] - r["old"]) for r in rows)), 1 + high)
            if two_sided:
                ratio = max(ratio, 1 - low)
            terms.append(
                -ratio * batch.columns.advantage[sample, 0].item() * sum(r["weight"] * r["log_probs"] for r in rows)
            )
        total += sum(terms) / len(terms) / 4
    without = Batch(dataclasses.replace(batch.entries, ref=None, exact_kl=None), batch.columns)
    loss, _, _ = loss_and_gradient(without, load_objective("cispo", {"two_sided": two_sided}))
    assert loss.item() == pytest.approx(total, rel=1e-12)


def test_stable_drl_is_a_loop_over_normalised_weights():
    batch = part(BATCH, [0, 1, 2, 3])
    held, bounds = {}, {}
    for sample, spans in samples_of(batch):
        length = batch.columns.num_tokens[sample, 0].item()
        ratio = math.exp(sum(r["weight"] * (r["log_probs"] - r["old"]) for r in spans[0]) / length)
        low, high = batch.columns.clip_low[sample].item(), batch.columns.clip_high[sample].item()
        held[sample] = min(max(ratio, 1 - low), 1 + high)
        bounds[sample] = sum(r["weight"] * r["log_probs"] for r in spans[0]) / length
    total = 0.0
    for group in ((0, 1), (2, 3)):
        for sample in group:
            share = held[sample] / sum(held[i] for i in group)  # the weights of a group sum to 1
            total += -share * batch.columns.advantage[sample, 0].item() * bounds[sample] / 2
    without = Batch(dataclasses.replace(batch.entries, ref=None, exact_kl=None), batch.columns)
    loss, _, sums = loss_and_gradient(without, load_objective("unconditional_clip", {}))
    assert loss.item() == pytest.approx(total, rel=1e-12)
    assert (
        sums.metrics()["ratio/clipped_fraction"]
        == sum(not math.isclose(held[s], math.exp(0)) and held[s] in (0.8, 1.2, 1.28, 0.9) for s in held) / 4
    )


def test_truncated_importance_weights_multiply_the_surrogate():
    objective = load_objective("clipped", {"max_importance": 1.1})
    plain, corrected = (
        load_objective("clipped", {}).losses(BATCH.entries, BATCH.columns),
        objective.losses(BATCH.entries, BATCH.columns),
    )
    assert BATCH.entries.old is not None
    assert BATCH.entries.behaviour is not None
    moved = per_unit(BATCH.entries.weight * (BATCH.entries.old - BATCH.entries.behaviour), plain.units)
    factor = moved.exp().clamp(max=1.1)
    assert (factor == 1.1).any()
    torch.testing.assert_close(corrected.loss, plain.loss * factor)


@pytest.mark.parametrize("level", LEVELS)
def test_units_are_those_of_a_loop(level):
    names = {
        "token": ("sample", "span", "position"),
        "view_token": ("sample", "span", "view", "position"),
        "view": ("sample", "span", "view"),
        "span": ("sample", "span"),
        "sequence": ("sample",),
    }[level]
    grouped = units(BATCH.entries, BATCH.columns, level)
    keys = [tuple(int(getattr(BATCH.entries, n)[i]) for n in names) for i in range(len(BATCH.entries))]
    assert len(grouped) == len(set(keys))
    for i, j in itertools.combinations(range(len(keys)), 2):
        assert (grouped.of[i] == grouped.of[j]) == (keys[i] == keys[j])
    values = torch.arange(len(keys), dtype=torch.float64)
    sums = per_unit(values, grouped)
    for i, key in enumerate(keys):
        assert sums[grouped.of[i]] == sum(values[j] for j, other in enumerate(keys) if other == key)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("how", REDUCTIONS)
def test_reductions_are_those_of_a_loop(level, how):
    grouped = units(BATCH.entries, BATCH.columns, level)
    values = torch.rand(len(grouped), generator=keyed_generator("values"), dtype=torch.float64)
    columns, total = BATCH.columns, 0.0
    for sample in range(6):
        parts = {}
        for u in range(len(grouped)):
            if grouped.sample[u] == sample:
                parts.setdefault(int(grouped.span[u]), []).append((values[u].item(), grouped.size[u].item()))
        if how == "masked_token_mean":
            means = [sum(v for v, _ in rows) / len(rows) for rows in parts.values()]
            total += sum(means) / len(means) / 6
        else:
            weighed = sum(v * size for rows in parts.values() for v, size in rows)
            divisor = 6 * columns.max_tokens[sample].item() if how == "fixed_length" else grouped.size.sum().item()
            total += weighed / divisor
    found = reduce_units(values, grouped, columns, how, BATCH.counts())
    assert found.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(("how", "token_level"), [("token_mean", True), ("masked_token_mean", False)])
def test_the_reductions_are_those_of_openrlhf(openrlhf, how, token_level):
    batch = part(make_batch(num_views=1), [0, 1, 2, 3])  # one part each
    grouped = units(batch.entries, batch.columns, "token")
    values = torch.rand(len(grouped), generator=keyed_generator("values"), dtype=torch.float64)
    padded = dense(batch, values)[0]
    expected = openrlhf.aggregate_loss(
        padded, dense(batch, torch.ones_like(values))[0] > 0, token_level_loss=token_level,
        batch_num_tokens=float(len(values)), global_batch_size=4.0,
    )  # fmt: skip
    found = reduce_units(values, grouped, batch.columns, how, batch.counts())
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)  # it adds 1e-8 to the token counts


def test_a_fixed_length_is_that_of_the_task():
    """A loss of 1 for every token of full responses is 1 for texts and for images, whatever their lengths."""
    num_text, num_image = 6, 24
    views = [
        Views(is_masked=torch.ones(1, n).bool(), weight=torch.ones(1, n), rate=torch.ones(1, n))
        for n in (num_text, num_image)
    ]
    entries = unscored_entries(views, [torch.ones(n, dtype=torch.long) for n in (num_text, num_image)])
    lengths = torch.tensor([[6.0], [24.0]])
    columns = dataclasses.replace(
        part(BATCH, [0, 4]).columns,
        advantage=torch.zeros(2, 1), num_tokens=lengths, num_views=torch.ones(2, 1), max_tokens=lengths[:, 0],
        row_length=24, num_units={},
    )  # fmt: skip
    grouped = units(entries, columns, "token")
    counts = Counts(num_responses=2.0, num_tokens={"token": 30.0})
    assert reduce_units(torch.ones(30), grouped, columns, "fixed_length", counts) == 1.0


def test_the_exact_kl_has_the_value_and_the_gradient_of_the_divergence():
    generator = keyed_generator("exact")
    logits = torch.randn(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(4, 5, generator=generator, dtype=torch.float64).log_softmax(-1)
    value = exact_kl(logits.log_softmax(-1), reference)
    expected = torch.nn.functional.kl_div(reference, logits.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(value, expected)
    assert torch.autograd.gradcheck(lambda x: exact_kl(x.log_softmax(-1), reference), (logits,))
    cut = logits.detach().clone()
    cut[:, 0] = -torch.inf  # a token that is never drawn
    cut.requires_grad_()
    (gradient,) = torch.autograd.grad(exact_kl(cut.log_softmax(-1), reference).sum(), cut)
    assert gradient.isfinite().all()


def test_only_k2_pulls_towards_the_reference_by_the_divergence_itself():
    """The exact expectation over a vocabulary of five tokens: gradients of k1, k2 and k3."""
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


def test_a_sample_that_is_not_compared_has_no_kl_and_an_unknown_reference_is_no_excuse():
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


def test_metrics_tell_tasks_mask_rates_and_sample_sizes():
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
