"""Tests the units of entries and the reductions of their losses."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from algorithm.objective_batch import (
    BATCH,
    dense,
    make_batch,
    part,
)

from unigrpo.algorithm.entries import (
    REDUCTIONS,
    Counts,
    per_unit,
    reduce_units,
    units,
    unscored_entries,
)
from unigrpo.algorithm.likelihood.base import Views
from unigrpo.config.algo import LEVELS
from unigrpo.rng import keyed_generator


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
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)  # OpenRLHF adds 1e-8 to the token counts


def test_tokens_with_weight_0_are_no_entries():
    """This holds for masked and for visible tokens, and for a view in which all weights are 0."""
    weight = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, -1.0]])
    views = Views(is_masked=weight != 0, weight=weight, rate=torch.full((2, 3), 0.5))
    more = Views(
        is_masked=torch.ones(3, 3).bool(),
        weight=torch.cat([weight, torch.zeros(1, 3)]),
        rate=torch.cat([views.rate, torch.ones(1, 3)]),
    )
    span = torch.tensor([0, 1, 1])
    plain, found = unscored_entries([views], [span]), unscored_entries([more], [span])
    assert (plain.weight.tolist(), plain.position.tolist(), plain.view.tolist()) == ([2.0, -1.0], [1, 2], [0, 1])
    for name in ("weight", "rate", "sample", "view", "position", "span"):
        assert torch.equal(getattr(found, name), getattr(plain, name))


def test_a_fixed_length_is_that_of_the_task():
    """If every token has the loss 1 and all responses have full length, the loss is 1 for texts and for images."""
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
