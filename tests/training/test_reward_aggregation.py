"""Tests totals and advantages, and limits of missing rewards."""

from dataclasses import replace

import pytest
import torch

from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.records import Prompt, RewardOutput, Rollout, SampleRequest
from unigrpo.training.reward_aggregation import RewardAggregator, span_advantages
from unigrpo.training.reward_failures import FailureGuard, RewardError
from unigrpo.training.reward_metrics import reward_means, reward_metrics, task_metrics

GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


def config(**b: object) -> RewardConfig:
    terms = (RewardTermConfig(name="a", weight=2.0), RewardTermConfig(name="b", weight=0.5, **b))  # type: ignore[arg-type]
    return RewardConfig(terms=terms, max_missing_fraction=0.4, max_failed_steps=2)


def outputs(a: list[float | None], b: list[float | None]) -> list[RewardOutput]:
    reasons = [{n: "is away" for n, v in (("a", x), ("b", y)) if v is None} for x, y in zip(a, b, strict=True)]
    floats = [[None if v is None else float(v) for v in values] for values in (a, b)]
    return [RewardOutput(parts={"a": x, "b": y}, reasons=r) for x, y, r in zip(*floats, reasons, strict=True)]


def rollouts(number: int) -> list[Rollout]:
    empty = torch.zeros(0)
    prompts = [Prompt(id=f"p{i // 3}", text="t") for i in range(number)]
    return [
        Rollout(
            key=SampleRequest(prompt=prompts[i], group_id=i // 3, sample_id=i, step=0).key, prompt=prompts[i],
            policy_version=0, token_ids=empty.long(), response_mask=empty.bool(), scored_mask=empty.bool(),
            completion=f"c{i}", commit_step=empty.long(), commit_log_probs=empty, image_mask=empty.bool(),
        )
        for i in range(number)
    ]  # fmt: skip


def test_the_total_is_the_weighted_sum():
    totals, valid = RewardAggregator(config(), ["a", "b"]).aggregate(
        outputs([1, 0, 1, 0, 0, 1], [0, 1, 1, 0, 1, 1]), GROUPS
    )
    assert totals.tolist() == [2.0, 0.5, 2.5, 0.0, 0.5, 2.5]
    assert valid.all()


def test_a_missing_optional_reward_is_left_out_for_its_whole_group_only():
    totals, valid = RewardAggregator(config(required=False), ["a", "b"]).aggregate(
        outputs([1, 0, 1, 0, 0, 1], [0, None, 1, 0, 1, 1]), GROUPS
    )
    assert totals.tolist() == [2.0, 0.0, 2.0, 0.0, 0.5, 2.5]
    assert valid.all()


def test_a_sample_without_a_required_reward_is_not_usable_and_the_others_of_its_group_are_compared():
    totals, valid = RewardAggregator(config(), ["a", "b"]).aggregate(outputs([1, None, 0, 0, 0, 1], [1] * 6), GROUPS)
    assert valid.tolist() == [True, False, True, True, True, True]
    advantages = span_advantages(totals[:, None], GROUPS, valid, "mean_only")
    assert advantages[:, 0].tolist() == pytest.approx([1.0, 0.0, -1.0, -2 / 3, -2 / 3, 4 / 3])


def test_a_group_with_one_usable_sample_has_no_advantage():
    valid = torch.tensor([True, False, False, True, True, False])
    advantages = span_advantages(torch.arange(6.0).double()[:, None], GROUPS, valid, "leave_one_out")
    assert advantages[:, 0].tolist() == [0.0, 0.0, 0.0, -1.0, 1.0, 0.0]


def test_a_reward_with_weight_0_is_logged_and_never_counted():
    terms = (RewardTermConfig(name="a"), RewardTermConfig(name="b", weight=0.0))
    rewards = RewardAggregator(RewardConfig(terms=terms), ["a", "b"])
    found = outputs([1, 0, 1, 0, 0, 1], [None, 7, 7, 7, 7, 7])
    totals, valid = rewards.aggregate(found, GROUPS)
    assert totals.tolist() == [1, 0, 1, 0, 0, 1]
    assert valid.all()
    assert reward_metrics(found, totals, GROUPS, valid)["reward/b_mean"] == 7


def test_metrics_by_hand():
    found = outputs([1, None, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1])
    totals, valid = RewardAggregator(config(), ["a", "b"]).aggregate(found, GROUPS)
    metrics = reward_metrics(found, totals, GROUPS, valid)
    assert metrics["reward/a_mean"] == pytest.approx(3 / 5)
    assert metrics["reward/a_missing_fraction"] == pytest.approx(1 / 6)
    assert metrics["reward/a_zero_spread_groups"] == 0.5  # the first group has the rewards 1 and 1
    assert metrics["reward/b_zero_spread_groups"] == 1.0
    assert metrics["reward/total_mean"] == pytest.approx((2 + 2 + 0.5 + 0.5 + 2.5) / 5)
    assert metrics["reward/zero_spread_groups"] == 0.5
    assert metrics["reward/left_out_fraction"] == pytest.approx(1 / 6)
    means = reward_means(found, totals, valid)
    assert means == {"a": pytest.approx(0.6), "b": 0.5, "reward_total": pytest.approx(7.5 / 5)}


def check(guard: FailureGuard, settings: RewardConfig, found: list[RewardOutput]) -> bool:
    _, valid = RewardAggregator(settings, ["a", "b"]).aggregate(found, GROUPS)
    return guard.check_missing(found, valid, rollouts(6))


def test_more_missing_than_allowed_fails_the_step_and_in_a_row_the_run():
    guard = FailureGuard(config(), ["a", "b"])
    few, many = outputs([1, None, 1, 0, 0, 1], [0] * 6), outputs([None, None, None, 0, 0, 1], [0] * 6)
    assert check(guard, config(), few)
    assert not check(guard, config(), many)
    assert check(guard, config(), few)
    assert not check(guard, config(), many)
    both = outputs([1, None, None, None, 0, 1], [0] * 6)
    # An optional reward, or one with the weight 0.
    both = [replace(o, reasons={"b": "is slow"} | dict(o.reasons)) for o in both]
    with pytest.raises(RewardError, match=r"reward 'a' is away: 3 of 6 .* sample 1 of prompt p0"):
        optional = FailureGuard(config(required=False), ["a", "b"])
        check(optional, config(required=False), both)
        check(optional, config(required=False), both)
    with pytest.raises(RewardError, match=r"reward 'a' is away: 3 of 6 .* sample 0 of prompt p0; completion: 'c0'"):
        check(guard, config(), many)


def test_equal_rewards_in_every_group_are_warned_of_at_once_and_end_the_run_after_some_steps(caplog):
    guard = FailureGuard(replace(config(), max_steps_without_spread=3), ["a", "b"])
    flat, spread = torch.zeros(6, 1), torch.tensor([0.0, 0.0, 0.0, -0.5, 0.5, 0.0])[:, None]
    found = outputs([0] * 6, [1] * 6)
    for advantages in (flat, flat, spread, flat, flat):
        guard.check_spread(advantages, found, rollouts(6))
    assert caplog.text.count("equal within every group of this step, so it teaches nothing (a 0, b 1 for the") == 4
    with pytest.raises(RewardError, match=r"a 0, b 1 for the first completion, 'c0'\). It was so in 3 steps in a row"):
        guard.check_spread(flat, found, rollouts(6))
    never = FailureGuard(replace(config(), max_steps_without_spread=0), ["a", "b"])
    for _ in range(100):
        never.check_spread(flat, found, rollouts(6))


def test_each_reward_of_each_task_has_its_own_mean_and_spread():
    scored = outputs([1, 0, 1, 0, None, 0], [2, 4, 6, 8, 10, 30])
    scored[5] = RewardOutput(parts={"a": 0.0})  # not scored by b
    tasks = ["text", "mmu", "text", "mmu", "text", "mmu"]
    totals = torch.arange(6).double()
    valid = torch.tensor([True, True, True, True, False, True])
    metrics = task_metrics(tasks, scored, totals, GROUPS, valid)
    assert metrics["reward/a_mean/text"] == 1.0
    assert metrics["reward/a_mean/mmu"] == 0.0
    assert metrics["reward/b_mean/text"] == pytest.approx((2 + 6 + 10) / 3)
    assert metrics["reward/b_mean/mmu"] == pytest.approx((4 + 8) / 2)
    assert metrics["reward/b_std/mmu"] == pytest.approx(2.0)
    assert metrics["reward/total_mean/text"] == pytest.approx((0 + 2) / 2)  # the fifth sample is left out
    assert metrics["reward/a_zero_spread_groups/mmu"] == 1.0


def span_config() -> RewardConfig:
    return RewardConfig(
        terms=(
            RewardTermConfig(name="form", weight=2.0, tasks=("text", "r2i"), span="thoughts"),
            RewardTermConfig(name="match", weight=0.5, tasks=("t2i", "r2i"), span="image", required=False),
            RewardTermConfig(name="both"),
        )
    )


def test_a_reward_applies_to_the_part_that_it_names_and_another_to_every_part():
    tasks = ["r2i", "r2i", "text", "text", "t2i", "t2i"]
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    found = [
        RewardOutput(parts={"form": 1.0, "match": 4.0, "both": 0.1}),
        RewardOutput(parts={"form": 0.0, "match": 4.0, "both": 0.1}),
        RewardOutput(parts={"form": 1.0, "both": 0.2}),
        RewardOutput(parts={"form": 0.5, "both": 0.2}),
        RewardOutput(parts={"match": 3.0, "both": 0.3}),
        RewardOutput(parts={"match": 1.0, "both": 0.3}),
    ]
    aggregator = RewardAggregator(span_config(), ["form", "match", "both"])
    by_span = aggregator.span_totals(found, groups, tasks)
    expected = [[2.1, 2.1], [0.1, 2.1], [2.2, 0.0], [1.2, 0.0], [1.8, 0.0], [0.8, 0.0]]
    assert by_span.tolist() == [pytest.approx(row) for row in expected]
    assert aggregator.aggregate(found, groups)[0].tolist() == pytest.approx([4.1, 2.1, 2.2, 1.2, 1.8, 0.8])
    advantages = span_advantages(by_span, groups, torch.ones(6, dtype=torch.bool), "mean_only")
    # The images of the first group have equal rewards, and their thoughts do not.
    assert advantages.tolist() == [
        pytest.approx(row) for row in [[1.0, 0.0], [-1.0, 0.0], [0.5, 0.0], [-0.5, 0.0], [0.5, 0.0], [-0.5, 0.0]]
    ]


def test_a_missing_optional_reward_of_a_part_is_left_out_for_that_part_of_the_group():
    found = [
        RewardOutput(parts={"form": 1.0, "match": None, "both": 0.0}, reasons={"match": "is away"}),
        RewardOutput(parts={"form": 0.0, "match": 4.0, "both": 0.0}),
    ]
    aggregator = RewardAggregator(span_config(), ["form", "match", "both"])
    assert aggregator.span_totals(found, torch.tensor([0, 0]), ["r2i", "r2i"]).tolist() == [[2.0, 0.0], [0.0, 0.0]]


def test_without_a_span_the_response_has_one_total():
    aggregator = RewardAggregator(config(), ["a", "b"])
    found = outputs([1, 0, 1, 0, 0, 1], [0, 1, 1, 0, 1, 1])
    totals, _ = aggregator.aggregate(found, GROUPS)
    assert torch.equal(aggregator.span_totals(found, GROUPS, ["r2i"] * 6), totals[:, None])


@pytest.mark.parametrize(
    ("tasks", "span", "message"),
    [
        (("text", "r2i"), "image", "the responses of text have no image; list only the tasks that have it: t2i, r2i"),
        ((), "thoughts", "the responses of t2i have no thoughts"),
        pytest.param(("r2i",), "picture", "span", marks=pytest.mark.wrong_types),
    ],
)
def test_a_span_that_a_task_does_not_have_is_refused(tasks, span, message):
    with pytest.raises(ValueError, match=message):
        RewardTermConfig(name="a", tasks=tasks, span=span)
