"""What a run needs of Ray, and the errors before anything starts."""

from __future__ import annotations

import dataclasses
import socket
import time

import pytest
import ray

from unigrpo.config import (
    ActorConfig,
    AlgoConfig,
    DeepSpeedConfig,
    KLConfig,
    RewardConfig,
    RewardTermConfig,
    RunConfig,
    TrainConfig,
)
from unigrpo.distributed.cluster import ResourceRequest, check_resources, check_zero_stage, connect, required


def run_config(ranks: int = 2, *, beta: float = 0.01, colocate: bool = True, reward_workers: int = 3) -> RunConfig:
    return RunConfig(
        actor=ActorConfig(num_gpus_per_node=ranks),
        algo=AlgoConfig(kl=KLConfig(init_coef=beta)),
        reward=RewardConfig(terms=(RewardTermConfig(name="math_answer", num_workers=reward_workers),)),
        train=TrainConfig(colocate_actor_ref=colocate),
    )


def with_shares(config: RunConfig, **options: float) -> RunConfig:
    term = dataclasses.replace(config.reward.terms[0], **options)
    return dataclasses.replace(config, reward=RewardConfig(terms=(term,)))


@pytest.mark.parametrize(
    ("config", "needs"),
    [
        (run_config(), ResourceRequest(gpus=2, cpus=5)),
        (run_config(colocate=False), ResourceRequest(gpus=4, cpus=7)),
        (run_config(colocate=False, beta=0.0), ResourceRequest(gpus=2, cpus=5)),
        (run_config(ranks=1, reward_workers=1), ResourceRequest(gpus=1, cpus=2)),
        (with_shares(run_config(ranks=1), num_workers=3, num_cpus=0.5, num_gpus=0.5), ResourceRequest(gpus=3, cpus=3)),
    ],
)
def test_needs_are_counted_by_role(config: RunConfig, needs: ResourceRequest) -> None:
    assert required(config) == needs


@pytest.mark.parametrize(
    ("config", "has", "message"),
    [
        (run_config(), {"CPU": 64.0}, r"needs 2 GPUs \(2 for policy and reference together\).* has 0\..*--num-gpus 2"),
        (run_config(colocate=False), {"CPU": 64.0, "GPU": 3.0}, r"needs 4 GPUs \(2 for the policy and 2 for the ref"),
        (run_config(beta=0.0), {"CPU": 64.0, "GPU": 1.0}, r"needs 2 GPUs \(2 for the policy\)"),
        (
            run_config(),
            {"CPU": 4.0, "GPU": 2.0},
            r"needs 5 CPUs .*each model rank.* has 4\..*--num-cpus 5",
        ),
    ],
)
def test_a_cluster_that_is_too_small_is_an_error_with_the_numbers(
    config: RunConfig, has: dict[str, float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: has)
    with pytest.raises(ValueError, match=message):
        check_resources(config)


def test_a_cluster_that_just_suffices_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 5.0, "GPU": 2.0})
    assert check_resources(run_config()) == ResourceRequest(gpus=2, cpus=5)


def test_training_without_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ds\.zero_stage is 0; choose 1, 2 or 3"):
        check_zero_stage(RunConfig(ds=DeepSpeedConfig(zero_stage=0)))


def test_a_cluster_that_does_not_answer_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(ValueError, match=r"no Ray cluster can be reached .*ray start --head.*quickstart.sh"):
            connect(required(run_config()))
        assert time.monotonic() - started < 15
