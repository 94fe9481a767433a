"""Rewards in Ray actors; what they have in common with other processes is tested in tests/workers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from builders import rollout_without_tokens

from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.distributed.ray_group import WorkerFailed
from unigrpo.distributed.reward_pool import RewardPool, check_rewards
from unigrpo.records import Prompt

pytestmark = pytest.mark.ray

FILE = Path(__file__).parents[1] / "fixtures" / "odd_rewards.py"


ROLLOUTS = [rollout_without_tokens(i, "x" * i) for i in range(6)]


def term(function: str, **options: object) -> RewardTermConfig:
    return RewardTermConfig(name=f"{FILE}:{function}", **options)  # type: ignore[arg-type]


@pytest.fixture
def pool(cluster: None) -> Iterator:
    started: list[RewardPool] = []

    def start(*terms: RewardTermConfig) -> RewardPool:
        started.append(RewardPool(RewardConfig(terms=terms)))
        started[-1].initialize()
        return started[-1]

    yield start
    for each in started:
        each.close()


def values(outputs: list, name: str) -> list[float | None]:
    return [output.parts[name] for output in outputs]


def test_rewards_that_hang_die_or_fork_are_missing_and_the_others_are_there(pool):
    outputs, _ = pool(
        term("length", num_workers=2, batch_size=2, concurrency=2),
        term("holds_the_interpreter", timeout_seconds=1.0, attempts=1),
        term("kills_itself", attempts=1),
        term("forks_and_returns"),
    ).score(ROLLOUTS)
    assert values(outputs, "length") == [0, 1, 2, 3, 4, 5]
    assert values(outputs, "holds_the_interpreter") == values(outputs, "kills_itself") == [None] * 6
    assert values(outputs, "forks_and_returns") == [8.0] * 6
    assert outputs[0].reasons == {
        "holds_the_interpreter": "did not answer within 1 s",
        "kills_itself": "ended its own process",
    }


def test_a_process_that_died_is_started_again_and_its_batch_scored_again(pool, tmp_path):
    outputs, _ = pool(term("kills_itself_once", options={"marker": str(tmp_path / "died")})).score(ROLLOUTS)
    assert values(outputs, "kills_itself_once") == [2.0] * 6


def test_a_call_that_hangs_costs_the_others_of_its_process_no_attempt(pool, tmp_path):
    hangs = term(
        "hangs_for_the_first", options={"marker": str(tmp_path / "died")}, batch_size=1, concurrency=2, attempts=1,
        timeout_seconds=5.0,
    )  # fmt: skip
    outputs, _ = pool(hangs).score(ROLLOUTS)
    assert values(outputs, "hangs_for_the_first") == [None, 6.0, 6.0, 6.0, 6.0, 6.0]


def test_closing_ends_what_was_started_and_never_waited_for(cluster):
    rewards = RewardPool(RewardConfig(terms=(term("never_answers"),)))
    rewards.initialize()
    wait = rewards.start(ROLLOUTS)
    rewards.close()
    with pytest.raises(CancelledError, match="closed"):
        wait()


def test_a_check_calls_the_rewards_and_names_the_one_that_fails(cluster):
    prompts = [Prompt(id="p:1", text="t", label="7")]
    (trial,) = check_rewards(RewardConfig(terms=(term("length"),)), prompts, 8)
    assert trial.scores.values == [len("<think>This stands in for a sample.</think>7")]
    with pytest.raises(WorkerFailed, match=r"DoesNotLoad' could not start: .* FileNotFoundError: weights.* \(.*:\d"):
        check_rewards(RewardConfig(terms=(term("length"), term("DoesNotLoad"))))
    with pytest.raises(WorkerFailed, match=r"reward 'always_raises' raised OSError: always \(.*odd_rewards.py:\d+\)"):
        check_rewards(RewardConfig(terms=(term("always_raises"),)), prompts, 8)
