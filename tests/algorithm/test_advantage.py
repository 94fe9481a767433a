"""Compares group advantages with a loop over the formulas and with the original code, and tests edge cases."""

from __future__ import annotations

import statistics

import pytest
import torch

from unigrpo import plugins
from unigrpo.algorithm.advantage.base import PACKAGE, group_advantages, load_advantage

ESTIMATORS = ["group_norm", "mean_only", "leave_one_out"]
"""The estimators that ``by_loop`` computes; NAMES has all estimators."""
NAMES = plugins.available(PACKAGE)
REWARDS = torch.tensor([2.5, 0.0, 0.5, 2.0, 2.0, 0.5, 1.1, 0.3], dtype=torch.float64)
GROUPS = torch.tensor([7, 2, 7, 2, 7, 2, 7, 7])


def by_loop(rewards, groups, estimator):
    result = []
    for reward, group in zip(rewards, groups, strict=True):
        members = [r for r, g in zip(rewards, groups, strict=True) if g == group]
        mean = statistics.fmean(members)
        if estimator == "leave_one_out":
            mean = (sum(members) - reward) / (len(members) - 1)
        scale = statistics.pstdev(members) if estimator == "group_norm" else 1.0
        result.append((reward - mean) / (scale or 1.0))
    return result


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_advantages_are_those_of_a_loop_over_the_formula(estimator):
    advantages = group_advantages(REWARDS, GROUPS, estimator)
    assert advantages.tolist() == pytest.approx(by_loop(REWARDS.tolist(), GROUPS.tolist(), estimator), abs=1e-12)


@pytest.mark.parametrize("estimator", NAMES)
def test_each_group_sums_to_zero(estimator):
    advantages = group_advantages(REWARDS, GROUPS, estimator)
    for group in GROUPS.unique():
        assert advantages[group == GROUPS].sum().item() == pytest.approx(0.0, abs=1e-12)


def test_normalised_groups_have_standard_deviation_one():
    advantages = group_advantages(REWARDS, GROUPS)
    for group in GROUPS.unique():
        assert advantages[group == GROUPS].square().mean().item() == pytest.approx(1.0)


@pytest.mark.parametrize("estimator", NAMES)
def test_the_order_of_the_rollouts_does_not_matter(estimator):
    order = torch.tensor([3, 7, 0, 5, 1, 6, 2, 4])
    shuffled = group_advantages(REWARDS[order], GROUPS[order], estimator)
    torch.testing.assert_close(shuffled, group_advantages(REWARDS, GROUPS, estimator)[order], rtol=0, atol=1e-14)


@pytest.mark.parametrize("estimator", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 3, 7, 10])
@pytest.mark.parametrize("reward", [0.1, 0.7, 1.1, 1 / 3, -2.3, 1e8 + 0.1])
def test_equal_rewards_give_exactly_zero(estimator, dtype, size, reward):
    rewards = torch.full((size,), reward, dtype=dtype)
    assert group_advantages(rewards, torch.zeros(size, dtype=torch.long), estimator).tolist() == [0.0] * size


@pytest.mark.parametrize("case", range(3))
def test_groups_on_which_the_original_code_is_misled_by_rounding_give_zero(golden, case):
    _, arrays = golden("group_zscore_rounding_trap")
    rewards = arrays[f"in.rewards.{case}"]
    assert group_advantages(rewards, torch.zeros(3, dtype=torch.long)).tolist() == [0.0, 0.0, 0.0]


def test_advantages_are_those_of_the_original_code(golden):
    _, arrays = golden("group_advantages")
    rewards, groups = arrays["in.rewards"].flatten(), torch.arange(4).repeat_interleave(4)
    normalised = group_advantages(rewards.double(), groups)
    torch.testing.assert_close(normalised, arrays["out.dllm_rl_zscore_float64"].flatten(), rtol=1e-12, atol=0)
    centred = group_advantages(rewards, groups, "mean_only")
    torch.testing.assert_close(centred, arrays["out.d1"].flatten())
    torch.testing.assert_close(centred, arrays["out.trl_scale_none"].flatten())


def test_a_group_of_one_rollout_is_refused():
    with pytest.raises(ValueError, match="group 5 has one rollout"):
        group_advantages(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 5, 1]))


def test_an_unknown_estimator_is_named_with_the_right_ones():
    with pytest.raises(ValueError, match=r"no 'zscore'; choose one of \['group_norm'"):
        group_advantages(REWARDS, GROUPS, "zscore")


@pytest.mark.parametrize("estimator", NAMES)
def test_a_constant_added_to_all_rewards_changes_nothing(estimator):
    advantages = group_advantages(REWARDS, GROUPS, estimator)
    torch.testing.assert_close(group_advantages(REWARDS + 64, GROUPS, estimator), advantages, rtol=0, atol=1e-12)


def test_a_group_that_differs_by_rounding_alone_is_left_out():
    """Without ``min_spread``, the rounding of the rewards of such a group gives advantages of normal size."""
    rewards = torch.tensor([3.1, 3.1, 3.1, 3.1 + 1e-15, 1.0, 2.0], dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 0, 1, 1])
    assert group_advantages(rewards, groups)[:4].abs().max() > 0.5
    assert group_advantages(rewards, groups, min_spread=1e-6).tolist() == [0.0] * 4 + [-1.0, 1.0]
    assert group_advantages(rewards, groups, min_spread=0.5).tolist() == [0.0] * 6  # the spread of the second group


def test_wd1_follows_its_temperature():
    rewards = torch.tensor([0.0, 1.0], dtype=torch.float64)
    advantages = group_advantages(
        rewards, torch.zeros(2, dtype=torch.long), load_advantage("wd1", {"temperature": 0.5})
    )
    expected = torch.tensor([-2.0, 2.0]).double().div(2).tanh()  # e^2 / (1 + e^2) - 1 / (1 + e^2) = tanh(1)
    torch.testing.assert_close(advantages, expected)
    with pytest.raises(ValueError, match="wd1: temperature is 0"):
        load_advantage("wd1", {"temperature": 0.0})
