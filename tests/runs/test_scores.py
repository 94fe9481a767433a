"""Compares paired intervals with calculations by hand, and their quantiles with published tables."""

import pytest

from unigrpo.runs.scores import paired_gain, scores_at, student_quantile


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(3, 3.1824), (4, 2.7764), (10, 2.2281), (30, 2.0423), (120, 1.9799)]
)
def test_the_quantiles_are_those_of_published_tables(degrees, quantile):
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, rel=1.5e-3)


def scores(*values, task="text"):
    return {(task, f"p:{i}"): {"a_greedy": value} for i, value in enumerate(values) if value is not None}


def test_only_prompts_that_both_evaluations_scored_are_compared():
    before, after = scores(0.0, 1.0, 0.0, 0.0, None, 1.0), scores(1.0, 1.0, 1.0, 0.0, 1.0, None)
    gain = paired_gain(before, after, "a_greedy")
    # The differences 1, 0, 1, 0 have mean 0.5, standard deviation 0.57735, standard error 0.288675, and quantile
    # 3.1824.
    assert gain is not None
    assert (gain.n, gain.mean) == (4, 0.5)
    assert (gain.low, gain.high) == pytest.approx((0.5 - 0.91868, 0.5 + 0.91868), abs=2e-3)
    assert not gain.is_clear
    assert paired_gain(before, after, "other") is None
    assert paired_gain(before, after, "a_greedy", "mmu") is None
    assert paired_gain(scores(0, 0, 0), scores(1, 1, 1), "a_greedy") is None, "three prompts are too few"


def test_a_gain_of_all_prompts_is_clear_and_no_change_is_not():
    all_gain = paired_gain(scores(0, 0, 0, 0), scores(1, 1, 1, 1), "a_greedy")
    none_gains = paired_gain(scores(0, 1, 0, 1), scores(0, 1, 0, 1), "a_greedy")
    assert all_gain is not None and all_gain.is_clear
    assert none_gains is not None and not none_gains.is_clear


def test_the_scores_of_a_step_are_found():
    rows = [{"step": s, "task": "text", "prompt_id": "p", "scores": {"a": float(s)}} for s in (0, 3)]
    assert scores_at(rows, 3) == {("text", "p"): {"a": 3.0}}
