"""Compares group filters with a classification of groups by hand."""

from __future__ import annotations

import pytest
import torch

from unigrpo import ConfigError
from unigrpo.algorithm.group_filter.base import kept_groups, load_group_filter

GROUPS = torch.tensor([0, 0, 2, 2, 1, 1, 3, 3, 4, 4])
"""Numbers of the groups in an order in which ranks may return them."""


def kept(rewards: list[float], max_groups: int = 9, valid: list[bool] | None = None, **options: float) -> list[int]:
    is_valid = torch.ones(len(rewards), dtype=torch.bool) if valid is None else torch.tensor(valid)
    totals = torch.tensor(rewards, dtype=torch.float64)[:, None]
    return kept_groups(totals, GROUPS[: len(rewards)], is_valid, load_group_filter("informative", options), max_groups)


def test_the_first_groups_in_the_order_of_the_prompts_whose_rewards_differ_are_kept():
    rewards = [0.0, 1.0, 1.0, 0.0, 0.7, 0.7, 0.0, 0.5, 1.0, 0.9]
    assert kept(rewards) == [0, 2, 3, 4]
    assert kept(rewards, max_groups=2) == [0, 2]


def test_rewards_that_differ_by_rounding_alone_have_no_spread():
    assert kept([0.1 + 0.2] * 10) == []
    assert kept([1.1, 1.1, 1 / 3, 1 / 3, -2.3, -2.3]) == []


def test_a_spread_of_at_most_the_smallest_one_is_not_informative():
    rewards = [0.0, 0.5, 0.0, 0.25]  # standard deviations 0.25 and 0.125
    assert kept(rewards, min_spread=0.125) == [0]
    assert kept(rewards, min_spread=0.1) == [0, 2]
    with pytest.raises(ConfigError, match=r"min_spread is -1.0; it must be 0 or more"):
        load_group_filter("informative", {"min_spread": -1.0})


def test_samples_without_a_reward_do_not_make_a_group_informative():
    assert kept([0.0, 9.0, 0.0, 1.0], valid=[True, False, True, True]) == [2]


def test_a_group_that_differs_in_one_part_of_the_response_is_kept():
    totals = torch.tensor([[1.0, 0.0], [1.0, 0.5], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    groups = torch.tensor([0, 0, 1, 1])
    informative = load_group_filter("informative", {})
    assert kept_groups(totals, groups, torch.ones(4, dtype=torch.bool), informative, 9) == [0]
