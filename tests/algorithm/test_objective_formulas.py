"""Compares each objective with a loop over the formula of its paper."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from algorithm.objective_batch import (
    BATCH,
    Batch,
    loss_and_gradient,
    make_batch,
    part,
)

from unigrpo.algorithm.advantage.base import group_advantages
from unigrpo.algorithm.entries import (
    Entries,
    per_unit,
)
from unigrpo.algorithm.objective.base import KLPenalty, load_objective


def samples_of(batch):
    """Returns the entries of each sample by span, as dicts of numbers."""
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
    """ESPO has the ratio of ELBOs divided by the length, and k2 of the whole ELBO difference divided by the length."""
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


def test_the_bounds_of_spg_for_one_token_are_its_log_likelihood():
    """For one token whose log-probability is the same in all views, both bounds are exact."""
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
    assert found.loss.item() == pytest.approx(-0.7 * 1.0)  # minus the advantage -1 times the bound
    far = dataclasses.replace(entries, log_probs=log_probs - 1000)
    assert objective.losses(far, columns).loss.item() == pytest.approx(-1000.7)  # exp(-1000) is 0 in float64


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
def test_cispo_is_a_loop_over_constant_weights(two_sided):
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
