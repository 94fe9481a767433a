"""Tests that the other rewards and the run continue if the process of a reward hangs, dies or returns invalid
values."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest
from builders import odd_term, reward_values, rollout_without_tokens, started_pools

from unigrpo.config import RewardConfig
from unigrpo.records import Prompt
from unigrpo.workers import reward_pool, reward_process
from unigrpo.workers.reward_pool import RewardNotReady, RewardPool, local_reward_pool
from unigrpo.workers.reward_process import LocalReward

PROMPTS = [Prompt(id=f"p:{i}", text="t", label=str(i)) for i in range(3)]
ROLLOUTS = [rollout_without_tokens(i, "x" * i) for i in range(6)]


@pytest.fixture
def pool():
    yield from started_pools(local_reward_pool)


@pytest.mark.parametrize(("num_workers", "batch_size"), [(0, 0), (2, 0), (1, 1), (2, 2)])
def test_results_of_batches_are_in_the_order_of_the_samples(pool, num_workers, batch_size):
    outputs, metrics = pool(odd_term("length", num_workers=num_workers, batch_size=batch_size)).score(ROLLOUTS)
    assert reward_values(outputs, "length") == [0, 1, 2, 3, 4, 5]
    assert metrics["time/reward/length_seconds"] > 0


def test_a_reward_that_hangs_is_missing_and_the_others_are_not(pool):
    rewards = pool(odd_term("length"), odd_term("never_answers", timeout_seconds=0.5, attempts=1))
    for _ in range(2):  # the new process is ended again
        outputs, _ = rewards.score(ROLLOUTS)
        assert reward_values(outputs, "length") == [0, 1, 2, 3, 4, 5]
        assert reward_values(outputs, "never_answers") == [None] * 6
        assert outputs[0].reasons == {"never_answers": "did not answer within 0.5 s"}


def test_a_process_that_hung_or_died_is_started_again_and_its_batch_scored_again(pool, tmp_path):
    hangs = odd_term("hangs_once", options={"marker": str(tmp_path / "hung")}, timeout_seconds=5.0)
    dies = odd_term("kills_itself_once", options={"marker": str(tmp_path / "died")})
    outputs, _ = pool(hangs, dies).score(ROLLOUTS)
    assert reward_values(outputs, "hangs_once") == [1.0] * 6
    assert reward_values(outputs, "kills_itself_once") == [2.0] * 6


def test_a_process_that_always_dies_is_missing_with_its_reason(pool):
    outputs, _ = pool(odd_term("kills_itself"), odd_term("length")).score(ROLLOUTS)
    assert reward_values(outputs, "kills_itself") == [None] * 6
    assert outputs[5].reasons == {"kills_itself": "ended its own process (exit status 1)"}
    assert reward_values(outputs, "length") == [0, 1, 2, 3, 4, 5]


def test_a_process_that_is_out_of_memory_is_replaced_and_its_batch_scored_again(pool):
    rewards = pool(odd_term("leaks_until_the_second_call"))
    for _ in range(2):
        outputs, _ = rewards.score(ROLLOUTS)
        assert reward_values(outputs, "leaks_until_the_second_call") == [15.0] * 6


def test_a_call_that_raises_is_made_once_more(pool):
    outputs, _ = pool(odd_term("raises_every_third_call", batch_size=1)).score(ROLLOUTS)
    assert reward_values(outputs, "raises_every_third_call") == [3.0] * 6


def test_nan_and_numbers_beyond_float_are_missing(pool):
    outputs, _ = pool(odd_term("returns_nan_for_long"), odd_term("returns_what_no_float_holds", attempts=1)).score(
        ROLLOUTS
    )
    assert reward_values(outputs, "returns_nan_for_long") == [4.0, 4.0, 4.0, 4.0, None, None]
    assert outputs[4].reasons["returns_nan_for_long"] == "returned nan"
    assert reward_values(outputs, "returns_what_no_float_holds") == [None] * 6
    assert "is no number" in outputs[0].reasons["returns_what_no_float_holds"]


def test_a_reward_that_cannot_start_is_named(pool):
    with pytest.raises(RewardNotReady, match=r"DoesNotLoad' could not start: .* FileNotFoundError: weights.* \(.*:\d"):
        pool(odd_term("DoesNotLoad"))


def test_a_reward_that_is_never_ready_stops_the_start(pool):
    with pytest.raises(RewardNotReady, match=r"NeverLoads' is not ready after 1 s; .* load_timeout_seconds \(now 1\)"):
        pool(odd_term("NeverLoads", load_timeout_seconds=1.0))


@pytest.mark.parametrize(("factor", "seconds"), [(20.0, 0.0), (0.0, 60.0)])
def test_a_process_that_is_started_again_may_load_for_longer_than_a_call_may_take(
    pool, tmp_path, monkeypatch, factor, seconds
):
    monkeypatch.setattr(reward_process, "RELOAD_FACTOR", factor)
    monkeypatch.setattr(reward_process, "RELOAD_SECONDS", seconds)
    options = {"marker": str(tmp_path / "died"), "seconds": 1.5}
    outputs, _ = pool(odd_term("LoadsSlowly", options=options, timeout_seconds=1.0)).score(ROLLOUTS)
    assert reward_values(outputs, "LoadsSlowly") == [5.0] * 6


def test_started_calls_run_while_the_caller_continues(pool, tmp_path):
    wait = pool(odd_term("waits_for", options={"marker": str(tmp_path / "go")})).start(ROLLOUTS)
    (tmp_path / "go").touch()  # the caller continues
    outputs, _ = wait()
    assert reward_values(outputs, "waits_for") == [7.0] * 6


def test_closing_ends_calls_that_nobody_waits_for(pool):
    rewards = pool(odd_term("never_answers"))
    wait = rewards.start(ROLLOUTS)
    rewards.close()
    with pytest.raises(CancelledError, match="closed"):
        wait()


def test_numbers_that_a_reward_logs_are_averaged_over_its_calls(pool):
    _, metrics = pool(odd_term("logs_its_mean", batch_size=4)).score(ROLLOUTS)
    assert metrics["reward/logs_its_mean/mean_length"] == pytest.approx(2.5)


def test_a_costly_reward_is_called_with_as_many_samples_as_its_deadline_allows(pool, tmp_path):
    notes = tmp_path / "calls"
    options = {"notes": str(notes), "seconds": 0.05}
    rewards = pool(odd_term("Costly", options=options, timeout_seconds=2.0, num_workers=1))
    many = [rollout_without_tokens(i, "x" * i) for i in range(24)]
    for _ in range(2):
        outputs, _ = rewards.score(many)
        assert reward_values(outputs, "costly") == list(range(24))
    sizes = [int(line) for line in notes.read_text().splitlines()]
    assert sizes[0] == 2  # the first call measures the rate, which is 0.05 s per sample
    assert 2 < max(sizes) <= 10  # a later call takes a quarter of the deadline
    assert sum(sizes) == 48


def test_a_costly_reward_that_becomes_slow_is_called_with_fewer_samples_and_none_is_missing(pool, tmp_path):
    notes = tmp_path / "calls"
    options = {"notes": str(notes), "seconds": 0.02, "slow_from": 1, "slow_factor": 20.0}
    rewards = pool(odd_term("Costly", options=options, timeout_seconds=2.0, attempts=1, num_workers=1))
    outputs, _ = rewards.score([rollout_without_tokens(i, "x" * i) for i in range(12)])
    assert reward_values(outputs, "costly") == list(range(12))
    sizes = [int(line) for line in notes.read_text().splitlines()]
    assert sizes[:2] == [2, 10]  # 10 samples of 0.4 s miss the deadline of 2 s
    assert max(sizes[2:]) <= 4


def test_a_costly_reward_gets_as_many_processes_as_a_step_needs_and_free_cpus_allow(tmp_path, monkeypatch):
    monkeypatch.setattr(reward_pool, "STEP_SECONDS", 1.0)
    options = {"notes": str(tmp_path / "calls"), "seconds": 0.4}
    for free, samples, expected in ((8, 6, 3), (1, 200, 2), (8, 1, 1)):
        config = RewardConfig(terms=(odd_term("Costly", options=options, num_cpus=1.0),))
        rewards = RewardPool(config, LocalReward, free_cpus=lambda free=free: free)
        rewards.initialize(PROMPTS, samples)
        assert rewards.try_out(PROMPTS, samples)[0].num_processes == expected
        outputs, _ = rewards.score(ROLLOUTS)
        assert reward_values(outputs, "costly") == [0, 1, 2, 3, 4, 5]
        rewards.close()


def test_a_trial_calls_each_reward_with_two_prompts_and_returns_the_seconds_of_a_step(pool, tmp_path):
    costly = odd_term("Costly", options={"notes": str(tmp_path / "calls"), "seconds": 0.4}, num_workers=2)
    trials = pool(odd_term("length"), costly, odd_term("never_answers", tasks=("t2i",))).try_out(PROMPTS, 100)
    assert [trial.name for trial in trials] == ["length", "costly"]
    assert trials[0].scores.values == [len("<think>This stands in for a sample.</think>0")] * 2
    assert trials[1].seconds_per_sample == pytest.approx(0.4, rel=0.5)
    assert trials[1].step_seconds == pytest.approx(100 * trials[1].seconds_per_sample / 2)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "never_answers",
            {"timeout_seconds": 0.5},
            "did not score 2 samples within its timeout_seconds 0.5, and",
        ),
        ("kills_itself", {}, r"kills_itself' ended its own process \(exit status 1\)"),
        ("always_raises", {}, r"always_raises' raised OSError: always \(.*odd_rewards.py:\d+\)"),
        ("Costly", {"batch_size": 50, "timeout_seconds": 1.0}, "so that a call of 50 misses timeout_seconds 1; lower"),
    ],
)
def test_a_reward_that_fails_or_misses_its_deadline_is_refused_before_the_run(pool, tmp_path, name, settings, message):
    options = {"notes": str(tmp_path / "calls"), "seconds": 0.1} if name == "Costly" else {}
    with pytest.raises(RewardNotReady, match=message):
        pool(odd_term(name, options=options, **settings)).try_out(PROMPTS, 100)


BAD_REWARDS: dict[str, float | str] = {
    "prints_without_end": 10.0,
    "holds_the_interpreter": "did not answer within 2 s",
    "moves_away": 11.0,
    "closes_everything": 12.0,
    "raises_what_cannot_be_shown": "raised Unshown: its message cannot be read",
    "exits_quietly": "raised SystemExit: 0",
    "interrupts": "raised KeyboardInterrupt",
    "returns_one_in_another": "returned 1 values for 3 samples",
    "returns_too_few": "returned 1 values for 3 samples",
    "returns_what_cannot_be_a_number": "returned something that is no number: MemoryError",
    "starts_a_thread_that_raises": 13.0,
    "shouts_an_error": "raised ValueError: xxx",
    "keeps_what_it_gets": 14.0,
    "forks_and_returns": 8.0,
    "kills_itself": "ended its own process (exit status 1)",
    "returns_what_no_float_holds": "returned something that is no number",
}
"""Value of each bad reward for every sample, or the beginning of the reason why it is missing."""


@pytest.mark.slow
def test_bad_rewards_neither_end_the_run_nor_affect_other_rewards(pool):
    seconds = {"holds_the_interpreter": 2.0}
    bad = [odd_term(name, required=False, attempts=1, timeout_seconds=seconds.get(name, 60.0)) for name in BAD_REWARDS]
    rewards = pool(odd_term("length"), *bad)
    for _ in range(2):
        outputs, _ = rewards.score(ROLLOUTS[:3])
        assert reward_values(outputs, "length") == [0, 1, 2]
        for name, expected in BAD_REWARDS.items():
            if isinstance(expected, float):
                assert reward_values(outputs, name) == [expected] * 3, name
            else:
                assert reward_values(outputs, name) == [None] * 3, name
                assert outputs[0].reasons[name].startswith(expected), name
                assert len(outputs[0].reasons[name]) < 1000, name
