"""Tests rewards in Ray actors. tests/workers tests what they have in common with other processes."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest
from builders import odd_term, reward_values, rollout_without_tokens, started_pools

from unigrpo.config import RewardConfig
from unigrpo.distributed.reward_pool import RewardPool, check_rewards
from unigrpo.records import Prompt
from unigrpo.workers.reward_pool import RewardNotReady

pytestmark = pytest.mark.ray
ROLLOUTS = [rollout_without_tokens(i, "x" * i) for i in range(6)]


@pytest.fixture
def pool(cluster):
    yield from started_pools(RewardPool)


@pytest.mark.slow
def test_rewards_that_hang_die_or_fork_are_missing_and_the_others_are_not(pool):
    outputs, _ = pool(
        odd_term("length", num_workers=2, batch_size=2, concurrency=2),
        odd_term("holds_the_interpreter", timeout_seconds=1.0, attempts=1),
        odd_term("kills_itself", attempts=1),
        odd_term("forks_and_returns"),
    ).score(ROLLOUTS)
    assert reward_values(outputs, "length") == [0, 1, 2, 3, 4, 5]
    assert reward_values(outputs, "holds_the_interpreter") == reward_values(outputs, "kills_itself") == [None] * 6
    assert reward_values(outputs, "forks_and_returns") == [8.0] * 6
    assert outputs[0].reasons == {
        "holds_the_interpreter": "did not answer within 1 s",
        "kills_itself": "ended its own process",
    }


@pytest.mark.slow
def test_a_process_that_died_is_started_again_and_its_batch_scored_again(pool, tmp_path):
    outputs, _ = pool(odd_term("kills_itself_once", options={"marker": str(tmp_path / "died")})).score(ROLLOUTS)
    assert reward_values(outputs, "kills_itself_once") == [2.0] * 6


@pytest.mark.slow
def test_a_call_that_hangs_does_not_use_up_attempts_of_other_calls(pool, tmp_path):
    hangs = odd_term(
        "hangs_for_the_first", options={"marker": str(tmp_path / "died")}, batch_size=1, concurrency=2, attempts=1,
        timeout_seconds=5.0,
    )  # fmt: skip
    outputs, _ = pool(hangs).score(ROLLOUTS)
    assert reward_values(outputs, "hangs_for_the_first") == [None, 6.0, 6.0, 6.0, 6.0, 6.0]


def test_closing_ends_calls_that_nobody_waits_for(cluster):
    rewards = RewardPool(RewardConfig(terms=(odd_term("never_answers"),)))
    rewards.initialize()
    wait = rewards.start(ROLLOUTS)
    rewards.close()
    with pytest.raises(CancelledError, match="closed"):
        wait()


def test_a_check_calls_the_rewards_and_names_the_one_that_fails(cluster):
    prompts = [Prompt(id="p:1", text="t", label="7")]
    (trial,) = check_rewards(RewardConfig(terms=(odd_term("length"),)), prompts, 8)
    assert trial.scores.values == [len("<think>This stands in for a sample.</think>7")]
    with pytest.raises(RewardNotReady, match=r"DoesNotLoad' could not start: .* FileNotFoundError: weights.* \(.*:\d"):
        check_rewards(RewardConfig(terms=(odd_term("length"), odd_term("DoesNotLoad"))))
    with pytest.raises(
        RewardNotReady, match=r"reward 'always_raises' raised OSError: always \(.*odd_rewards.py:\d+\)"
    ):
        check_rewards(RewardConfig(terms=(odd_term("always_raises"),)), prompts, 8)
