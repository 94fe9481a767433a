"""Tests rules of the graders of all benchmarks."""

from __future__ import annotations

import pytest
from builders import graded

from rewards.base import Reward, RewardInput
from rewards.loading import load_reward


@pytest.mark.parametrize("name", ["pope", "mme", "gqa", "mmmu"])
def test_golds_that_a_rule_cannot_compare_are_refused_before_the_run(name: str) -> None:
    reward: Reward = load_reward(name)
    with pytest.raises(ValueError, match="gold"):
        reward.check_prompt(RewardInput(prompt="?", completion="", label=None, task="mmu"))
    with pytest.raises(ValueError, match="generates no text"):
        reward.check_prompt(RewardInput(prompt="?", completion="", label="yes", task="t2i"))


@pytest.mark.parametrize("name", ["pope", "mme", "vqav2", "gqa", "mmmu"])
@pytest.mark.parametrize("form", ["<think>no</think>{}", "I think so. <answer>{}</answer>", "It is \\boxed{{{}}}."])
def test_the_answer_may_be_after_thoughts_in_a_tag_or_in_a_box(name: str, form: str) -> None:
    right, wrong = ("B", "A") if name == "mmmu" else ("yes", "no")
    assert graded(name, form.format(right), right) == 1.0
    assert graded(name, form.format(wrong), right) == 0.0
