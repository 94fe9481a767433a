"""Totals, advantages and limits when rewards are missing."""

from dataclasses import replace

import pytest
import torch

from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.records import Prompt, RewardOutput, Rollout, SampleRequest
from unigrpo.training.reward_aggregation import (
    RewardAggregator,
    RewardError,
    reward_means,
    reward_metrics,
    task_metrics,
    valid_advantages,
)

GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


def config(**b: object) -> RewardConfig:
    terms = (RewardTermConfig(name="a", weight=2.0), RewardTermConfig(name="b", weight=0.5, **b))  # type: ignore[arg-type]
    return RewardConfig(terms=terms, max_missing_share=0.4, max_failed_steps=2)


def outputs(a: list[float | None], b: list[float | None]) -> list[RewardOutput]:
    reasons = [{n: "is away" for n, v in (("a", x), ("b", y)) if v is None} for x, y in zip(a, b, strict=True)]
    floats = [[None if v is None else float(v) for v in values] for values in (a, b)]
    return [RewardOutput(parts={"a": x, "b": y}, reasons=r) for x, y, r in zip(*floats, reasons, strict=True)]


def rollouts(number: int) -> list[Rollout]:
    empty = torch.zeros(0)
    return [
        Rollout(
            request=SampleRequest(prompt=Prompt(id=f"p{i // 3}", text="t"), group_id=i // 3, sample_id=i, step=0),
            policy_version=0, token_ids=empty.long(), response_mask=empty.bool(), scored_mask=empty.bool(),
            completion=f"c{i}", commit_step=empty.long(), commit_log_probs=empty, image_mask=empty.bool(),
        )
        for i in range(number)
    ]  # fmt: skip


def test_the_total_is_the_weighted_sum():
    totals, valid = RewardAggregator(config(), ["a", "b"])(outputs([1, 0, 1, 0, 0, 1], [0, 1, 1, 0, 1, 1]), GROUPS)
    assert totals.tolist() == [2.0, 0.5, 2.5, 0.0, 0.5, 2.5]
    assert valid.all()


def test_a_missing_optional_reward_is_left_out_for_its_whole_group_only():
    totals, valid = RewardAggregator(config(required=False), ["a", "b"])(
        outputs([1, 0, 1, 0, 0, 1], [0, None, 1, 0, 1, 1]), GROUPS
    )
    assert totals.tolist() == [2.0, 0.0, 2.0, 0.0, 0.5, 2.5]
    assert valid.all()


def test_a_sample_without_a_required_reward_is_not_usable_and_the_others_of_its_group_are_compared():
    totals, valid = RewardAggregator(config(), ["a", "b"])(outputs([1, None, 0, 0, 0, 1], [1] * 6), GROUPS)
    assert valid.tolist() == [True, False, True, True, True, True]
    advantages = valid_advantages(totals, GROUPS, valid, "mean_only")
    assert advantages.tolist() == pytest.approx([1.0, 0.0, -1.0, -2 / 3, -2 / 3, 4 / 3])


def test_a_group_with_one_usable_sample_has_no_advantage():
    valid = torch.tensor([True, False, False, True, True, False])
    advantages = valid_advantages(torch.arange(6.0).double(), GROUPS, valid, "leave_one_out")
    assert advantages.tolist() == [0.0, 0.0, 0.0, -1.0, 1.0, 0.0]


def test_a_hold_out_is_logged_and_never_counted():
    terms = (RewardTermConfig(name="a"), RewardTermConfig(name="b", weight=0.0))
    rewards = RewardAggregator(RewardConfig(terms=terms), ["a", "b"])
    found = outputs([1, 0, 1, 0, 0, 1], [None, 7, 7, 7, 7, 7])
    totals, valid = rewards(found, GROUPS)
    assert totals.tolist() == [1, 0, 1, 0, 0, 1]
    assert valid.all()
    assert reward_metrics(found, totals, GROUPS, valid)["reward/b_mean"] == 7


def test_metrics_by_hand():
    found = outputs([1, None, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1])
    totals, valid = RewardAggregator(config(), ["a", "b"])(found, GROUPS)
    metrics = reward_metrics(found, totals, GROUPS, valid)
    assert metrics["reward/a_mean"] == pytest.approx(3 / 5)
    assert metrics["reward/a_missing_share"] == pytest.approx(1 / 6)
    assert metrics["reward/a_zero_spread_groups"] == 0.5  # 1, 1 in the first group
    assert metrics["reward/b_zero_spread_groups"] == 1.0
    assert metrics["reward/total_mean"] == pytest.approx((2 + 2 + 0.5 + 0.5 + 2.5) / 5)
    assert metrics["reward/zero_spread_groups"] == 0.5
    assert metrics["reward/left_out_share"] == pytest.approx(1 / 6)
    means = reward_means(found, totals, valid)
    assert means == {"a": pytest.approx(0.6), "b": 0.5, "reward_total": pytest.approx(7.5 / 5)}


def test_more_missing_than_allowed_fails_the_step_and_in_a_row_the_run():
    rewards = RewardAggregator(config(), ["a", "b"])
    few, many = outputs([1, None, 1, 0, 0, 1], [0] * 6), outputs([None, None, None, 0, 0, 1], [0] * 6)
    assert rewards.check(few, rewards(few, GROUPS)[1], rollouts(6))
    assert not rewards.check(many, rewards(many, GROUPS)[1], rollouts(6))
    assert rewards.check(few, rewards(few, GROUPS)[1], rollouts(6))
    assert not rewards.check(many, rewards(many, GROUPS)[1], rollouts(6))
    both = outputs([1, None, None, None, 0, 1], [0] * 6)
    both = [replace(o, reasons={"b": "is slow"} | dict(o.reasons)) for o in both]  # optional, or a hold-out
    with pytest.raises(RewardError, match=r"reward 'a' is away: 3 of 6 .* sample 1 of prompt p0"):
        optional = RewardAggregator(config(required=False), ["a", "b"])
        optional.check(both, optional(both, GROUPS)[1], rollouts(6))
        optional.check(both, optional(both, GROUPS)[1], rollouts(6))
    with pytest.raises(RewardError, match=r"reward 'a' is away: 3 of 6 .* sample 0 of prompt p0; completion: 'c0'"):
        rewards.check(many, rewards(many, GROUPS)[1], rollouts(6))


def test_each_reward_of_each_task_has_its_own_mean_and_spread():
    scored = outputs([1, 0, 1, 0, None, 0], [2, 4, 6, 8, 10, 30])
    scored[5] = RewardOutput(parts={"a": 0.0})  # not paid for by b
    tasks = ["text", "mmu", "text", "mmu", "text", "mmu"]
    totals = torch.arange(6).double()
    valid = torch.tensor([True, True, True, True, False, True])
    metrics = task_metrics(tasks, scored, totals, GROUPS, valid)
    assert metrics["reward/a_mean/text"] == 1.0
    assert metrics["reward/a_mean/mmu"] == 0.0
    assert metrics["reward/b_mean/text"] == pytest.approx((2 + 6 + 10) / 3)
    assert metrics["reward/b_mean/mmu"] == pytest.approx((4 + 8) / 2)
    assert metrics["reward/b_std/mmu"] == pytest.approx(2.0)
    assert metrics["reward/total_mean/text"] == pytest.approx((0 + 2) / 2)  # the fifth is left out
    assert metrics["reward/a_zero_spread_groups/mmu"] == 1.0
