"""Rewards that hang, die, raise or return nonsense in real processes: the others and the run go on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch

from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.distributed import reward_pool
from unigrpo.distributed.ray_group import WorkerFailed
from unigrpo.distributed.reward_pool import RewardPool, check_rewards
from unigrpo.records import Prompt, Rollout, SampleRequest

pytestmark = pytest.mark.ray


def length(*, completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def never_answers(*, completions: list[str]) -> list[float]:
    time.sleep(3600)
    return []


def hangs_once(*, completions: list[str], marker: str) -> list[float]:
    if not Path(marker).exists():
        Path(marker).touch()
        time.sleep(3600)
    return [1.0] * len(completions)


def kills_itself_once(*, completions: list[str], marker: str) -> list[float]:
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(1)
    return [2.0] * len(completions)


def kills_itself(*, completions: list[str]) -> list[float]:
    os._exit(1)


def raises_every_third_call(*, completions: list[str]) -> list[float]:
    global num_calls
    num_calls += 1
    if num_calls % 3 == 0:
        raise OSError("the third call")
    return [3.0] * len(completions)


num_calls = 0


def returns_nan_for_long(*, completions: list[str]) -> list[float]:
    return [float("nan") if len(text) > 3 else 4.0 for text in completions]


def hangs_for_the_first(*, completions: list[str], marker: str) -> list[float]:
    """The empty completion hangs always, and its neighbour of the first time with it."""
    if completions == [""]:
        time.sleep(3600)
    if not Path(marker).exists():
        Path(marker).touch()
        time.sleep(3600)
    return [6.0] * len(completions)


def returns_what_no_float_holds(*, completions: list[str]) -> list[int]:
    return [10**400] * len(completions)


def logs_its_mean(*, completions: list[str]) -> dict[str, object]:
    return {"rewards": [0.0] * len(completions), "extra_logs": {"mean_length": [len(text) for text in completions]}}


def waits_for(*, completions: list[str], marker: str) -> list[float]:
    while not Path(marker).exists():
        time.sleep(0.01)
    return [7.0] * len(completions)


class LoadsSlowly:
    def __init__(self, marker: str) -> None:
        self._marker = Path(marker)
        time.sleep(6.0)

    def __call__(self, *, completions: list[str]) -> list[float]:
        if not self._marker.exists():
            self._marker.touch()
            os._exit(1)
        return [5.0] * len(completions)


class DoesNotLoad:
    def __init__(self) -> None:
        raise FileNotFoundError("weights.safetensors is not there")

    def __call__(self, *, completions: list[str]) -> list[float]:
        return []


class NeverLoads:
    def __init__(self) -> None:
        time.sleep(3600)

    def __call__(self, *, completions: list[str]) -> list[float]:
        return []


def rollout(sample: int, completion: str) -> Rollout:
    empty = torch.zeros(0)
    return Rollout(
        request=SampleRequest(prompt=Prompt(id="p", text="t"), group_id=0, sample_id=sample, step=0),
        policy_version=0, token_ids=empty.long(), response_mask=empty.bool(), scored_mask=empty.bool(),
        completion=completion, commit_step=empty.long(), commit_log_probs=empty, image_mask=empty.bool(),
    )  # fmt: skip


ROLLOUTS = [rollout(i, "x" * i) for i in range(6)]


def term(function: str, **options: object) -> RewardTermConfig:
    return RewardTermConfig(name=f"{__file__}:{function}", num_cpus=0.1, **options)  # type: ignore[arg-type]


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


@pytest.mark.parametrize(("num_workers", "batch_size", "concurrency"), [(1, 0, 1), (2, 0, 1), (1, 1, 2), (2, 2, 2)])
def test_batches_come_back_in_the_order_of_the_samples(pool, num_workers, batch_size, concurrency):
    options = {"num_workers": num_workers, "batch_size": batch_size, "concurrency": concurrency}
    outputs, metrics = pool(term("length", **options)).score(ROLLOUTS)
    assert values(outputs, "length") == [0, 1, 2, 3, 4, 5]
    assert metrics["time/reward/length_seconds"] > 0


def test_a_reward_that_hangs_is_missing_and_the_others_are_there(pool):
    rewards = pool(term("length"), term("never_answers", timeout_seconds=1.0, attempts=1))
    for _ in range(2):  # the process that was started again is ended again
        outputs, _ = rewards.score(ROLLOUTS)
        assert values(outputs, "length") == [0, 1, 2, 3, 4, 5]
        assert values(outputs, "never_answers") == [None] * 6
        assert outputs[0].reasons == {"never_answers": "did not answer within 1 s"}


def test_a_process_that_hung_or_died_is_started_again_and_its_batch_scored_again(pool, tmp_path):
    hangs = term("hangs_once", options={"marker": str(tmp_path / "hung")}, timeout_seconds=5.0)
    dies = term("kills_itself_once", options={"marker": str(tmp_path / "died")})
    outputs, _ = pool(hangs, dies).score(ROLLOUTS)
    assert values(outputs, "hangs_once") == [1.0] * 6
    assert values(outputs, "kills_itself_once") == [2.0] * 6


def test_a_process_that_always_dies_is_missing_with_its_reason(pool):
    outputs, _ = pool(term("kills_itself"), term("length")).score(ROLLOUTS)
    assert values(outputs, "kills_itself") == [None] * 6
    assert outputs[5].reasons == {"kills_itself": "ended its own process"}
    assert values(outputs, "length") == [0, 1, 2, 3, 4, 5]


def test_a_call_that_raises_is_made_once_more(pool):
    outputs, _ = pool(term("raises_every_third_call", batch_size=1)).score(ROLLOUTS)
    assert values(outputs, "raises_every_third_call") == [3.0] * 6


def test_nan_is_missing_for_its_sample_alone(pool):
    outputs, _ = pool(term("returns_nan_for_long")).score(ROLLOUTS)
    assert values(outputs, "returns_nan_for_long") == [4.0, 4.0, 4.0, 4.0, None, None]
    assert outputs[4].reasons == {"returns_nan_for_long": "returned nan"}


def test_a_reward_that_cannot_start_is_named(pool):
    with pytest.raises(WorkerFailed, match=r"DoesNotLoad' could not start: .* FileNotFoundError: weights"):
        pool(term("DoesNotLoad"))


def test_a_reward_that_is_never_ready_stops_the_start(pool):
    with pytest.raises(WorkerFailed, match=r"NeverLoads' is not ready after 2 s; .* load_timeout_seconds \(now 2\)"):
        pool(term("NeverLoads", load_timeout_seconds=2.0))


@pytest.mark.parametrize(("factor", "seconds"), [(20.0, 0.0), (0.0, 60.0)])
def test_a_process_that_is_started_again_may_load_for_longer_than_a_call_may_take(
    pool, tmp_path, monkeypatch, factor, seconds
):
    monkeypatch.setattr(reward_pool, "RELOAD_FACTOR", factor)
    monkeypatch.setattr(reward_pool, "RELOAD_SECONDS", seconds)
    slow = term("LoadsSlowly", options={"marker": str(tmp_path / "died")}, timeout_seconds=5.0)
    outputs, _ = pool(slow).score(ROLLOUTS)
    assert values(outputs, "LoadsSlowly") == [5.0] * 6


def test_a_call_that_hangs_costs_the_others_of_its_process_no_attempt(pool, tmp_path):
    hangs = term(
        "hangs_for_the_first", options={"marker": str(tmp_path / "died")}, batch_size=1, concurrency=2, attempts=1,
        timeout_seconds=5.0,
    )  # fmt: skip
    outputs, _ = pool(hangs).score(ROLLOUTS)
    assert values(outputs, "hangs_for_the_first") == [None, 6.0, 6.0, 6.0, 6.0, 6.0]


def test_all_that_is_no_finite_number_is_missing_and_its_process_lives_on(pool):
    odd = term("returns_what_no_float_holds", attempts=1)
    outputs, _ = pool(odd).score(ROLLOUTS)
    assert values(outputs, "returns_what_no_float_holds") == [None] * 6
    assert "is no number" in outputs[0].reasons["returns_what_no_float_holds"]


def test_what_is_started_is_scored_meanwhile(pool, tmp_path):
    wait = pool(term("waits_for", options={"marker": str(tmp_path / "go")})).start(ROLLOUTS)
    (tmp_path / "go").touch()  # the caller goes on
    outputs, _ = wait()
    assert values(outputs, "waits_for") == [7.0] * 6


def test_closing_ends_what_was_started_and_never_waited_for(cluster):
    rewards = RewardPool(RewardConfig(terms=(term("never_answers"),)))
    rewards.initialize()
    wait = rewards.start(ROLLOUTS)
    rewards.close()
    with pytest.raises(CancelledError, match="closed"):
        wait()


def test_what_a_reward_logs_is_averaged_over_its_calls(pool):
    _, metrics = pool(term("logs_its_mean", batch_size=4)).score(ROLLOUTS)
    assert metrics["reward/logs_its_mean/mean_length"] == pytest.approx(2.5)


def test_a_check_loads_the_rewards_and_names_the_one_that_fails(cluster):
    check_rewards(RewardConfig(terms=(term("length"),)))
    with pytest.raises(WorkerFailed, match=r"DoesNotLoad' could not start"):
        check_rewards(RewardConfig(terms=(term("length"), term("DoesNotLoad"))))
