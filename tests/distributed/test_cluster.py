"""Tests which resources a run needs from Ray, and the errors before a run starts."""

from __future__ import annotations

import dataclasses
import re
import signal
import socket
import string
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray

from unigrpo import ConfigError
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
from unigrpo.distributed import cluster
from unigrpo.distributed.cluster import ResourceRequest, check_resources, check_zero_stage, connect, required
from unigrpo.distributed.local_heads import LocalHead
from unigrpo.runs.stopping import StopRequest


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


def test_a_cluster_with_exactly_the_needed_resources_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 5.0, "GPU": 2.0})
    check_resources(run_config())


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


def test_workers_get_the_variables_that_the_user_did_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limits of malloc, every pass on a CPU allocates its memory from the system again."""
    joined: dict[str, Any] = {}
    monkeypatch.setattr(cluster, "local_heads", lambda: [head("127.0.0.1:1", True)])
    monkeypatch.setattr(cluster, "_probe", lambda address: None)
    monkeypatch.setattr(cluster.ray, "init", lambda **arguments: joined.update(arguments))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    connect(required(run_config()))
    variables = joined["runtime_env"]["env_vars"]
    assert "TOKENIZERS_PARALLELISM" not in variables
    assert variables["OMP_WAIT_POLICY"] == "PASSIVE"
    assert int(variables["MALLOC_TRIM_THRESHOLD_"]) > int(variables["MALLOC_MMAP_THRESHOLD_"]) > 32 * 2**20


@pytest.mark.parametrize("moment", ["in ray.init", "after it"])
def test_ray_does_not_replace_the_handler_of_sigterm(monkeypatch, moment):
    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # ray.init does this
        if moment == "in ray.init":
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(cluster, "local_heads", lambda: [head("127.0.0.1:1", True)])
    monkeypatch.setattr(cluster, "_probe", lambda address: None)
    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    stop = StopRequest()
    with stop.handled(), pytest.raises(KeyboardInterrupt):
        connect(required(run_config()))
        signal.raise_signal(signal.SIGTERM)
    assert stop.received == signal.SIGTERM


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "expandable_segments:True"), ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, None),
     ({"PYTORCH_ALLOC_CONF": "backend:native"}, None)],
)  # fmt: skip
def test_workers_use_expandable_segments_unless_the_user_sets_the_allocator(monkeypatch, given, expected):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert cluster.worker_variables().get("PYTORCH_ALLOC_CONF") == expected


def head(address: str, is_own: bool) -> LocalHead:
    return LocalHead(address=address, user="ann" if is_own else "bob", is_own=is_own, started=0.0, process=7)


def test_the_only_cluster_of_this_user_is_joined_and_never_that_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cluster, "local_heads", lambda: [head("h:2", False), head("h:1", True)])
    found = cluster.find_cluster()
    assert found.address == "h:1"
    assert found.whose.startswith("h:1, started by ann at ")
    monkeypatch.setattr(cluster, "local_heads", lambda: [head("h:2", False)])
    with pytest.raises(ConnectionError, match=r"started no cluster .*unless RAY_ADDRESS names it: h:2, .*bob"):
        cluster.find_cluster()
    monkeypatch.setattr(cluster, "local_heads", lambda: [head("h:3", True), head("h:1", True)])
    with pytest.raises(ConfigError, match=r"you have started several Ray clusters here .*choose one: RAY_ADDRESS=h:3"):
        cluster.find_cluster()


def test_the_cluster_of_ray_address_is_joined_even_if_another_user_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "local_heads", lambda: [head("h:2", False), head("h:1", True)])
    monkeypatch.setenv("RAY_ADDRESS", "h:2")
    assert cluster.find_cluster().address == "h:2"
    assert "bob" in cluster.find_cluster().whose
    monkeypatch.setenv("RAY_ADDRESS", "http://h:8265")
    with pytest.raises(ConfigError, match=r"is not the address of a head; give HOST:PORT"):
        cluster.find_cluster()


def test_loopback_is_never_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*cluster.PROXIES, "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert cluster.loopback_without_proxy() == {}
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "example.org,localhost")
    names = "example.org,localhost,127.0.0.1,::1"
    assert cluster.loopback_without_proxy() == {"no_proxy": names, "NO_PROXY": names}
    assert urllib.request.proxy_bypass("127.0.0.1")
    assert not urllib.request.proxy_bypass("example.com")


@pytest.mark.parametrize(
    ("path", "character"),
    [
        ("/home/ann/.venv/bin/python3.11", ""),
        ("/home/änn/a_b-c+d,e=f@g%h:i/bin/python", ""),
        ("/home/ann/My Projects/.venv/bin/python", " "),
        ("/home/ann/a$b/bin/python", "$"),
        ("/home/ann/a(b)/bin/python", "("),
        ("/home/o'hara/bin/python", "'"),
    ],
)
def test_an_interpreter_path_that_ray_does_not_support_is_refused(path, character):
    if not character:
        cluster.check_interpreter(path)
        return
    with pytest.raises(ConfigError, match=re.escape(f"has {character!r}, which a shell interprets")):
        cluster.check_interpreter(path)


def test_the_installation_refuses_the_same_characters():
    script = (Path(__file__).parents[2] / "launch" / "install.sh").read_text()
    quoted = re.findall(r"local special=(\$'.*')", script)[0]
    refused = subprocess.run(["bash", "-c", f"printf %s {quoted}"], capture_output=True, text=True, check=True).stdout
    common = set(string.printable) - set("\r\v\f")
    assert set(refused) == {character for character in common if cluster.SPECIAL.search(character)}


def test_the_interpreter_path_is_checked_before_a_run_joins_a_cluster(monkeypatch):
    monkeypatch.setattr(cluster.sys, "executable", "/home/ann/My Projects/bin/python")
    monkeypatch.setattr(cluster, "find_cluster", lambda: pytest.fail("the run looked for a cluster"))
    with pytest.raises(ConfigError, match="Ray starts no workers by such a path"):
        connect(ResourceRequest(gpus=1, cpus=1))
