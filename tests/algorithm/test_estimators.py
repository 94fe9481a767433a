"""Tests which tokens the mask-based estimators mask, and with which weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unigrpo.algorithm.likelihood.all_masked import AllMasked
from unigrpo.algorithm.likelihood.base import LikelihoodEstimator, Row, Views, load_estimator
from unigrpo.algorithm.likelihood.coupled import Coupled, coupled_weights
from unigrpo.algorithm.likelihood.masked_tokens import MaskedTokens
from unigrpo.algorithm.likelihood.random_masking import RandomMasking, mean_over_views
from unigrpo.rng import keyed_generator

ROWS = [(3, 6, 2), (1, 1, 7), (5, 4, 0), (2, 1, 0), (4, 8, 1)]


def make_row(prompt: int, scored: int, tail: int) -> Row:
    """Returns a row of prompt tokens, scored tokens and padding after the first end-of-text."""
    place = torch.arange(prompt + scored + tail)
    response = place >= prompt
    return Row(
        token_ids=place,
        response_mask=response,
        scored_mask=response & (place < prompt + scored),
        image_mask=torch.zeros_like(response),
        span=response.long(),
        commit_step=response.long() - 1,
        commit_log_probs=torch.zeros(len(place)),
    )


def views_of(estimator: LikelihoodEstimator, row: Row, ratio: float, key: int = 0) -> Views:
    return estimator.views(row, ratio, keyed_generator(3, 1, key, "mask"))


def test_an_unknown_estimator_or_option_is_named_with_the_right_ones():
    with pytest.raises(ValueError, match=r"no 'couple'; choose one of \[.*'coupled'.*'masked_tokens'"):
        load_estimator("couple", {})
    with pytest.raises(ValueError, match=r"'masked_tokens' has no \['num_views'\]; its options are \['masking'\]"):
        load_estimator("masked_tokens", {"num_views": 2})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("masked_tokens", {"masking": "exact"}),
        ("random_masking", {"num_views": 0}),
        ("random_masking", {"ratio_min": 0.6, "ratio_max": 0.4}),
        ("all_masked", {"prompt_mask_ratio": 1.5}),
        ("coupled", {"ratio_min": 0.0}),
        ("coupled", {"ratio_max": 1.0}),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(name, options):
    with pytest.raises(ValueError, match=name):
        load_estimator(name, options)


@pytest.mark.parametrize("sizes", ROWS)
def test_masked_tokens_masks_all_at_ratio_one_and_one_token_at_ratio_zero(sizes):
    row = make_row(*sizes)
    assert torch.equal(views_of(MaskedTokens(), row, 1.0).is_masked[0], row.response_mask)
    assert views_of(MaskedTokens(), row, 0.0).weight.sum() == 1


def test_masked_tokens_with_exact_count_masks_the_rounded_fraction():
    numbers = [views_of(MaskedTokens("exact_count"), make_row(*sizes), 0.5).weight.sum().item() for sizes in ROWS]
    assert numbers == [3, 1, 2, 1, 4]


def test_random_masking_averages_a_token_over_the_views_that_mask_it():
    masked = torch.tensor([[[True, True, False]], [[True, False, False]]])
    assert mean_over_views(masked).tolist() == [[[0.5, 1.0, 0.0]], [[0.5, 0.0, 0.0]]]
    totals = views_of(RandomMasking(num_views=4), make_row(2, 50, 0), 0.3).weight.sum(dim=0)
    assert 25 < (totals > 0).sum() <= 50
    torch.testing.assert_close(totals[totals > 0], torch.ones(int((totals > 0).sum())))


@pytest.mark.parametrize(("ratio", "numbers"), [(0.25, [30, 70]), (0.75, [70, 30])])
def test_views_of_random_masking_are_spread_over_the_mask_ratios(ratio, numbers):
    """0.1 + 0.8 * 0.25 and 0.1 + 0.8 * 0.75; the second view of the ratio 0.75 wraps."""
    views = views_of(RandomMasking(num_views=2, masking="exact_count"), make_row(0, 100, 0), ratio)
    assert views.is_masked.sum(dim=1).tolist() == numbers


def test_all_masked_masks_the_response_and_the_given_fraction_of_the_prompt():
    row = make_row(10_000, 4, 1)
    views = views_of(AllMasked(prompt_mask_ratio=0.15), row, 0.5)
    assert views.is_masked[0, row.response_mask].all()
    share = views.is_masked[0, ~row.response_mask].float().mean().item()
    assert share == pytest.approx(0.15, abs=0.018)  # five standard errors of 10,000 tokens
    assert torch.equal(views.weight[0], row.scored_mask.float())
    assert torch.equal(views_of(AllMasked(0.0), row, 0.5).is_masked[0], row.response_mask)


@pytest.mark.parametrize("sizes", ROWS)
def test_coupled_scores_every_token_in_the_full_view_and_in_one_of_the_two_others(sizes):
    row = make_row(*sizes)
    full, mask, complement = views_of(Coupled(), row, 0.5).weight
    assert torch.equal(full, 0.5 * row.scored_mask)
    assert torch.equal((mask > 0) ^ (complement > 0), row.scored_mask)
    assert set((mask + complement)[row.scored_mask].tolist()) == {1.0}  # t = 0.5


def test_the_expectation_of_coupled_is_half_the_sum_of_three_estimates():
    """Enumerates all 2^4 masks. The weights are the inverse probabilities that the mask or its complement masks a
    token."""
    ratio, size = 0.3, 4
    generator = keyed_generator("table")
    table = torch.randn(2**size, size, generator=generator)  # log-probability of each token under each mask
    total = torch.zeros(size)
    weight_total = torch.zeros(size)
    for code in range(2**size):
        masked = torch.tensor([[code >> i & 1 for i in range(size)]], dtype=torch.bool)
        weight = coupled_weights(torch.stack([torch.ones_like(masked), masked, ~masked]), torch.tensor([ratio]))[:, 0]
        chance = ratio ** int(masked.sum()) * (1 - ratio) ** int((~masked).sum())
        view_log_probs = torch.stack([table[-1], table[code], table[2**size - 1 - code]])
        total += chance * (weight * view_log_probs).sum(dim=0)
        weight_total += chance * weight.sum(dim=0)
    torch.testing.assert_close(weight_total, torch.full((size,), 1.5))
    torch.testing.assert_close(total, expected_coupled(table, ratio, size))


def expected_coupled(table: Tensor, ratio: float, size: int) -> Tensor:
    """Returns half the sum of the log-probability with all tokens masked and those expected under ratios t and 1 -
    t."""
    expected = torch.zeros(size)
    for token in range(size):
        given_masked = [0.0, 0.0]
        for code in range(2**size):
            others = [code >> i & 1 for i in range(size) if i != token]
            if not code >> token & 1:
                continue
            for which, t in enumerate((ratio, 1 - ratio)):
                chance = t ** sum(others) * (1 - t) ** (size - 1 - sum(others))
                given_masked[which] += chance * table[code, token].item()
        expected[token] = 0.5 * (table[-1, token] + sum(given_masked))
    return expected


def test_coupled_does_not_add_a_token_to_an_empty_mask():
    views = [views_of(Coupled(), make_row(1, 1, 0), 0.5, key) for key in range(400)]
    empty = sum(not one.is_masked[1].any() for one in views) / 400
    assert empty == pytest.approx(0.5, abs=0.125)  # five standard errors


def test_coupled_with_exact_count_divides_by_the_fraction_that_was_masked():
    views = views_of(Coupled(masking="exact_count"), make_row(2, 5, 0), 0.5)  # t = 0.5: 2 of 5
    assert views.weight[1].sum().item() == pytest.approx(2 / (2 * 2 / 5))
    assert views.weight[2].sum().item() == pytest.approx(3 / (2 * 3 / 5))
