"""Tests the reward for a right answer."""

from __future__ import annotations

import pytest

from rewards.base import RewardInput
from rewards.loading import load_reward
from rewards.math_answer import MathAnswer


def item(completion: str, label: str | None) -> RewardInput:
    return RewardInput(prompt="How many?", completion=completion, label=label)


def test_it_rewards_the_right_answer_only():
    reward = MathAnswer(kind="gsm8k")
    values = reward([item("<think>2+2</think>4", "4"), item("The answer is 5.", "#### 4"), item("<think>4", "4")])
    assert values == [1.0, 0.0, 0.0]
    assert reward.counts == {"ok": 2, "no_answer": 1}
    reward.close()


def test_it_is_loaded_by_name_with_options():
    reward = load_reward("math_answer", {"kind": "choice", "deadline": 1.0})
    assert reward([item("(B) 12 cm", "b")]) == [1.0]


def test_the_number_of_samples_without_an_answer_is_logged():
    reward = MathAnswer()
    reward([item("4", "4"), item("<think>4", "4")])
    assert reward.logs() == {"no_answer": 0.5, "timeout": 0.0, "error": 0.0}
    assert reward.logs() == {}


def test_a_comparison_without_a_result_is_a_missing_reward_and_is_counted():
    reward = MathAnswer(kind="math", deadline=0.02)
    slow = "\\boxed{(((2^{999})^{999})^{999})^{999}}"
    assert reward([item(slow, "\\sqrt{2}"), item("\\boxed{3}", "4")]) == [None, 0.0]
    assert reward.logs() == {"no_answer": 0.0, "timeout": 0.5, "error": 0.0}
    reward.close()


def test_loading_starts_the_process_of_comparisons():
    reward = MathAnswer()
    reward.load()
    assert reward([item("\\boxed{\\sqrt{12}}", "2\\sqrt{3}")]) == [1.0]
    reward.close()


@pytest.mark.parametrize("label", [None, "", "  ", "many"])
def test_an_unusable_label_is_found_at_load_time(label):
    with pytest.raises(ValueError, match="expected"):
        MathAnswer(kind="gsm8k").check_label(label)


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(ValueError, match="gsm8k"):
        MathAnswer(kind="maths")
