"""Compares structured masking with enumeration, with examples of the paper and with rows of the original code."""

from __future__ import annotations

import itertools

import pytest
import torch

from unigrpo.algorithm.masking import (
    apply_mask,
    bernoulli_mask,
    exact_count_mask,
    interpolate_ratios,
    mask_ratios,
    mask_tokens,
    stride_ratios,
    uniform_draws,
)
from unigrpo.rng import keyed_generator


def generators(count, purpose="mask"):
    return [keyed_generator(7, 0, row, purpose) for row in range(count)]


@pytest.mark.parametrize("other", [(1, 2, 4), (12, 3), (1, 23), ("1", 2, 3), (1, 2, 3, 0), (3, 2, 1)])
def test_another_key_gives_other_numbers(other):
    assert keyed_generator(*other).initial_seed() != keyed_generator(1, 2, 3).initial_seed()


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    eligible = torch.ones(2, 5, dtype=torch.bool)
    mask_tokens(eligible, mask_ratios("stride", 4, generators(2))[0], generators(2), "bernoulli")
    assert torch.equal(before, torch.get_rng_state())


def test_stride_is_the_worked_example_of_the_paper():
    ratios = stride_ratios(torch.tensor([0.1]), 5).flatten()
    torch.testing.assert_close(ratios, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9]))


def test_interpolate_is_the_formula_of_algorithm_1():
    timesteps = interpolate_ratios(torch.tensor([0.1, 0.7777]), 5).mul(1000).round().long().T
    assert timesteps.tolist() == [[100, 325, 550, 775, 1000], [777, 832, 888, 944, 1000]]


def test_interpolate_with_one_update_is_its_start():
    assert interpolate_ratios(torch.tensor([0.25]), 1).tolist() == [[0.25]]


@pytest.mark.parametrize("schedule", ["stride", "interpolate", "random"])
@pytest.mark.parametrize("num_inner_updates", [1, 4])
def test_ratios_stay_within_their_bounds(schedule, num_inner_updates):
    ratios = mask_ratios(schedule, num_inner_updates, generators(500), minimum=0.2, maximum=0.6)
    assert ratios.shape == (num_inner_updates, 500)
    assert 0.2 <= ratios.min() < 0.21
    assert ratios.max() <= 0.6 + 1e-6
    if schedule != "interpolate" or num_inner_updates == 1:
        assert abs(ratios.mean().item() - 0.4) < 0.02  # four standard errors


def test_stride_visits_every_part_of_the_range_once():
    ratios = mask_ratios("stride", 8, generators(50))
    assert torch.equal((ratios * 8).long(), torch.arange(8)[:, None].expand(8, 50))


def test_shuffled_ratios_are_the_same_in_another_order():
    plain = mask_ratios("stride", 4, generators(40), minimum=0.2)
    mixed = mask_ratios("stride", 4, generators(40), minimum=0.2, shuffle=True)
    assert torch.equal(mixed.sort(dim=0).values, plain)
    first = mixed.argmin(dim=0)
    assert set(first.tolist()) == {0, 1, 2, 3}  # the smallest mask ratio is used in any update


def test_a_response_keeps_its_ratios_when_the_batch_changes():
    alone = mask_ratios("random", 3, generators(9)[4:5])
    assert torch.equal(mask_ratios("random", 3, generators(9))[:, 4:5], alone)


def test_an_unknown_schedule_is_named_with_the_right_ones():
    with pytest.raises(ValueError, match=r"no 'linear'.*\['interpolate', 'random', 'stride'\]"):
        mask_ratios("linear", 2, generators(1))


def subset_probability(subset, ratio, size):
    """Probability of a Bernoulli mask that masks one random token if no token was drawn."""
    chance = ratio ** len(subset) * (1 - ratio) ** (size - len(subset))
    if len(subset) == 0:
        return 0.0
    return chance + ((1 - ratio) ** size / size if len(subset) == 1 else 0.0)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_every_subset_of_four_tokens_is_masked_with_its_enumerated_probability(ratio):
    size, rows = 4, 40_000
    draws = torch.rand(rows, size, generator=keyed_generator("subsets", int(ratio * 10)))
    eligible = torch.ones(rows, size, dtype=torch.bool)
    hidden = bernoulli_mask(draws, torch.full((rows,), ratio), eligible)
    seen = (hidden.long() * 2 ** torch.arange(size)).sum(dim=1).bincount(minlength=2**size) / rows
    subsets = [[i for i in range(size) if code >> i & 1] for code in range(2**size)]
    expected = torch.tensor([subset_probability(s, ratio, size) for s in subsets])
    assert expected.sum().item() == pytest.approx(1.0)
    # The tolerance is five standard errors of a frequency.
    assert ((seen - expected).abs() <= 5 * (expected * (1 - expected) / rows).sqrt() + 1e-9).all()


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_exact_count_masks_the_rounded_fraction_and_at_least_one_token(size, ratio):
    draws = torch.rand(20, size, generator=keyed_generator(size))
    hidden = exact_count_mask(draws, torch.full((20,), ratio), torch.ones(20, size, dtype=torch.bool))
    assert (hidden.sum(dim=1) == max(1, round(ratio * size))).all()


def test_exact_count_masks_every_pair_of_four_tokens_equally_often():
    rows = 24_000
    draws = torch.rand(rows, 4, generator=keyed_generator("pairs"))
    hidden = exact_count_mask(draws, torch.full((rows,), 0.5), torch.ones(rows, 4, dtype=torch.bool))
    for pair in itertools.combinations(range(4), 2):
        share = hidden[:, pair].all(dim=1).float().mean().item()
        assert share == pytest.approx(1 / 6, abs=0.012)  # five standard errors


@pytest.mark.parametrize("mask", [bernoulli_mask, exact_count_mask])
def test_a_row_without_eligible_tokens_masks_nothing(mask):
    eligible = torch.tensor([[False, False], [True, False]])
    hidden = mask(torch.rand(2, 2, generator=keyed_generator(0)), torch.tensor([1.0, 0.0]), eligible)
    assert hidden.tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("masking", ["bernoulli", "exact_count"])
def test_masked_tokens_grow_with_the_ratio_for_the_same_draws(masking):
    eligible = torch.rand(16, 12, generator=keyed_generator("eligible")) < 0.7
    views = [
        mask_tokens(eligible, torch.full((16,), ratio), generators(16), masking) for ratio in (0.1, 0.4, 0.8, 1.0)
    ]
    for fewer, more in itertools.pairwise(views):
        assert not (fewer & ~more).any()
    assert torch.equal(views[-1], eligible)


def test_draws_ignore_padding_and_row_order():
    short = torch.tensor([[True, True, False, True]])
    long = torch.cat([torch.zeros(1, 3, dtype=torch.bool), short], dim=1)
    both = torch.cat([torch.ones_like(long), long])
    drawn = uniform_draws(short, [keyed_generator(5)])
    assert torch.equal(uniform_draws(long, [keyed_generator(5)])[long], drawn[short])
    assert torch.equal(uniform_draws(both, [keyed_generator(1), keyed_generator(5)])[1][long[0]], drawn[short])


def test_apply_mask_changes_masked_tokens_alone():
    x0 = torch.tensor([[3, 4, 5]])
    views = torch.tensor([[[True, False, False]], [[False, False, True]]])
    assert apply_mask(x0, views, 99).tolist() == [[[99, 4, 5]], [[3, 4, 99]]]
    assert apply_mask(x0, views[0], 99).tolist() == [[99, 4, 5]]
