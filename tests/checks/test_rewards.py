"""Tests the check of rewards before a run, which no reward can delay beyond its deadline or end."""

from __future__ import annotations

import pytest

from unigrpo.checks.rewards import refused_prompts
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.records import Prompt

PROMPTS = [Prompt(id=f"train.jsonl:{i}", text="1+1=", label="2" if i else "") for i in range(3)]

CHECKS = """
import os
from rewards.base import Reward

class Fails(Reward):
    name, range, unit = "fails", (0.0, 1.0), "x"
    def __call__(self, inputs):
        return [0.0 for _ in inputs]
    def check_prompt(self, prompt):
        1 / 0

class Ends(Fails):
    def check_prompt(self, prompt):
        os._exit(0)

class NeedsGold(Fails):
    name = "needs_gold"
    def check_prompt(self, prompt):
        if not prompt.label:
            raise ValueError("no gold")
"""


def config(*terms: RewardTermConfig) -> RewardConfig:
    return RewardConfig(terms=terms)


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("import os; os._exit(0)", "f", r"ended its own process \(exit status 0\) while it was imported"),
        ("import time; time.sleep(3600)", "f", "did not answer within 1 s while it was imported; .*check_timeout_sec"),
        ("raise KeyboardInterrupt", "f", r"could not be built: KeyboardInterrupt \(.*mine.py:1\)"),
        (CHECKS, "Ends", r"ended its own process \(exit status 0\) while it checked prompts"),
        (
            "def f(*, completions, scale=1):\n    return completions\n",
            "f",
            "no parameter 'scal'; did you mean 'scale'",
        ),
    ],
)
def test_any_failure_of_a_reward_is_one_error_before_the_deadline(tmp_path, code, name, message):
    file = tmp_path / "mine.py"
    file.write_text(code + "\n")
    options = {"scal": 2} if "scale" in code else {}
    seconds = 1.0 if "sleep" in code else 60.0
    term = RewardTermConfig(name=f"{file}:{name}", options=options, check_timeout_seconds=seconds)
    with pytest.raises(ValueError, match=message):
        refused_prompts(PROMPTS, config(term))


def test_each_prompt_that_some_reward_rejects_is_reported_once_with_file_and_line(tmp_path, monkeypatch):
    monkeypatch.setattr("unigrpo.checks.rewards.PROMPTS_PER_CALL", 2)
    file = tmp_path / "mine.py"
    file.write_text(CHECKS)
    gold, fails = RewardTermConfig(name=f"{file}:NeedsGold"), RewardTermConfig(name=f"{file}:Fails")
    assert refused_prompts(PROMPTS, config(gold)) == {0: "train.jsonl:0: reward 'needs_gold' cannot use it: no gold"}
    with pytest.raises(ValueError) as raised:
        refused_prompts(PROMPTS, config(gold, fails))
    problem = f"check_prompt raised ZeroDivisionError: division by zero ({file}:10)"
    assert str(raised.value) == f"reward 'fails' cannot check the prompts: {problem}"
    assert refused_prompts(PROMPTS, config(RewardTermConfig(name="math_answer"))).keys() == {0}


def test_a_reward_is_not_asked_about_tasks_that_it_does_not_apply_to(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CHECKS)
    assert not refused_prompts(PROMPTS, config(RewardTermConfig(name=f"{file}:Ends", tasks=("t2i",))))


def test_two_rewards_of_one_name_are_refused(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("def f(*, completions):\n    return completions\n")
    terms = [RewardTermConfig(name=f"{tmp_path / name}:f") for name in ("a.py", "b.py")]
    with pytest.raises(ValueError, match=r"two rewards have the same name.*\['f', 'f'\]"):
        refused_prompts(PROMPTS, config(*terms))
