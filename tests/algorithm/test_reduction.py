"""Reductions against loops, against OpenRLHF, and under every way to cut a batch."""

from __future__ import annotations

import pytest
import torch

from unigrpo.algorithm.reduction import Denominators, fixed_length, masked_token_mean, reduce_tokens, token_mean
from unigrpo.rng import keyed_generator

AGGREGATIONS = ["masked_token_mean", "token_mean", "fixed_length"]
VALUES = torch.randn(6, 8, generator=keyed_generator("values"), dtype=torch.float64)
SCORED = torch.rand(6, 8, generator=keyed_generator("scored")) < torch.tensor([[0.9, 0.2, 0.5, 0.0, 0.7, 0.3]]).T
WHOLE = Denominators(num_responses=6.0, num_tokens=float(SCORED.sum()), response_length=8.0)


def test_the_rows_differ_in_length_and_one_is_empty():
    assert SCORED.sum(dim=1).tolist() == [7, 1, 5, 0, 6, 1]


def test_masked_token_mean_is_the_mean_of_the_means_of_a_loop():
    means = [VALUES[row][SCORED[row]].mean().item() if SCORED[row].any() else 0.0 for row in range(6)]
    assert masked_token_mean(VALUES, SCORED, num_responses=6.0).item() == pytest.approx(sum(means) / 6)


def test_token_mean_is_the_mean_of_all_scored_tokens():
    torch.testing.assert_close(token_mean(VALUES, SCORED, num_tokens=20.0), VALUES[SCORED].mean())


def test_fixed_length_is_the_sum_over_responses_times_length():
    torch.testing.assert_close(
        fixed_length(VALUES, SCORED, num_responses=6.0, length=100.0), VALUES[SCORED].sum() / 600
    )


def test_a_response_without_scored_tokens_counts_zero_and_does_not_make_the_others_heavier():
    others = SCORED.any(dim=1)
    without = masked_token_mean(VALUES[others], SCORED[others], num_responses=6.0)
    torch.testing.assert_close(masked_token_mean(VALUES, SCORED, num_responses=6.0), without)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("cuts", [(6,), (3, 3), (1, 5), (2, 1, 3), (1,) * 6, (4, 2)])
def test_the_shares_of_uneven_shards_add_up_to_the_whole_batch(aggregation, cuts):
    values = VALUES.clone().requires_grad_()
    shares = [
        reduce_tokens(part, scored, aggregation, WHOLE)
        for part, scored in zip(values.split(cuts), SCORED.split(cuts), strict=True)
    ]
    total = torch.stack(shares).sum()
    total.backward()
    whole = VALUES.clone().requires_grad_()
    expected = reduce_tokens(whole, SCORED, aggregation, WHOLE)
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(values.grad, whole.grad)


def test_the_mean_of_the_means_of_uneven_shards_would_not():
    """The reason for global denominators."""
    halves = [VALUES[rows][SCORED[rows]].mean() for rows in (slice(0, 3), slice(3, 6))]
    assert not torch.isclose(torch.stack(halves).mean(), token_mean(VALUES, SCORED, num_tokens=20.0))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_padding_and_row_order_change_nothing(aggregation):
    expected = reduce_tokens(VALUES, SCORED, aggregation, WHOLE)
    padded = reduce_tokens(
        torch.nn.functional.pad(VALUES, (3, 2), value=torch.nan),
        torch.nn.functional.pad(SCORED, (3, 2), value=False),
        aggregation,
        WHOLE,
    )
    torch.testing.assert_close(padded, expected)
    order = torch.tensor([2, 5, 0, 4, 1, 3])
    torch.testing.assert_close(reduce_tokens(VALUES[order], SCORED[order], aggregation, WHOLE), expected)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_shard_without_any_scored_token_gives_zero_with_a_gradient(aggregation):
    values = VALUES.clone().requires_grad_()
    nothing = Denominators(num_responses=6.0, num_tokens=0.0, response_length=8.0)
    share = reduce_tokens(values, torch.zeros_like(SCORED), aggregation, nothing)
    share.backward()
    assert share == 0
    assert (values.grad == 0).all()


@pytest.mark.parametrize(("aggregation", "token_level"), [("token_mean", True), ("masked_token_mean", False)])
def test_the_reductions_are_those_of_openrlhf(openrlhf, aggregation, token_level):
    expected = openrlhf.aggregate_loss(
        VALUES,
        SCORED,
        token_level_loss=token_level,
        batch_num_tokens=WHOLE.num_tokens,
        global_batch_size=WHOLE.num_responses,
    )
    # It adds 1e-8 to the token counts.
    torch.testing.assert_close(reduce_tokens(VALUES, SCORED, aggregation, WHOLE), expected, rtol=1e-7, atol=0)


def test_an_unknown_reduction_is_named_with_the_right_ones():
    with pytest.raises(ValueError, match=r"no 'mean'; choose one of \['fixed_length'"):
        reduce_tokens(VALUES, SCORED, "mean", WHOLE)
