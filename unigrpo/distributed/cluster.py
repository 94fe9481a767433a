"""Connecting to the Ray cluster of a run, and comparing its resources with those that the run needs."""

from __future__ import annotations

import math
import os
import socket
import warnings
from dataclasses import dataclass

import ray
from ray._private.services import canonicalize_bootstrap_address

from unigrpo.config import BaseRunConfig, RunConfig

PROBE_SECONDS = 10.0
"""How long the cluster's address may take to accept a connection."""


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """GPUs and CPUs that a run requests from Ray."""

    gpus: int
    cpus: int


def connect(needs: ResourceRequest) -> None:
    """Connects this process to the running cluster: that of ``RAY_ADDRESS``, which a job has, or the local one.

    Raises:
        ValueError: No cluster answers.
    """
    variables = {"TOKENIZERS_PARALLELISM": "false", "RAY_USAGE_STATS_ENABLED": "0"}
    try:
        address = canonicalize_bootstrap_address("auto")
        _probe(str(address))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Tip: In future versions of Ray")
            ray.init(
                address=address,
                ignore_reinit_error=True,
                runtime_env={"env_vars": {k: v for k, v in variables.items() if k not in os.environ}},
            )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"no Ray cluster can be reached ({str(error).splitlines()[0]}); start one with `ray start --head` "
            f"(without GPUs: `ray start --head --num-gpus {needs.gpus} --num-cpus {needs.cpus}`), or run "
            "`bash launch/quickstart.sh`, which does"
        ) from error


def _probe(address: str) -> None:
    """Fails at once if nothing listens at an address; Ray itself would retry for minutes."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers at {address}: {error}") from error


def required(config: RunConfig) -> ResourceRequest:
    """Returns the GPUs and CPUs of all workers: one of each for a policy rank, and those of the reward processes."""
    models = config.num_policy_ranks
    if config.has_dedicated_reference_gpus:
        models *= 2
    models += config.rollout.num_workers
    terms = config.reward.terms
    return ResourceRequest(
        gpus=models + math.ceil(sum(t.min_workers * t.num_gpus for t in terms)),
        cpus=models + math.ceil(sum(t.min_workers * t.cpus for t in terms)),
    )


def check_zero_stage(config: BaseRunConfig) -> None:
    """Refuses a ZeRO stage with which errors would stay unnoticed.

    Raises:
        ValueError: ZeRO-0, with which DeepSpeed reports no gradient norm and accepts non-finite gradients.
    """
    if config.ds.zero_stage == 0:
        raise ValueError("ds.zero_stage is 0; choose 1, 2 or 3: without ZeRO, DeepSpeed does not check gradients")


def check_resources(config: RunConfig) -> ResourceRequest:
    """Compares the resources that the run needs with those of the cluster, before anything starts.

    Raises:
        ValueError: The cluster is too small, or the run cannot work on any cluster; see :func:`check_zero_stage`.
    """
    needs = required(config)
    check_cluster(config, needs, _gpu_roles(config))
    return needs


def stage_needs(config: BaseRunConfig) -> ResourceRequest:
    """Returns the GPUs and CPUs of a pretraining or Mix-CoT stage: one of each for a rank."""
    return ResourceRequest(gpus=config.actor.num_ranks, cpus=config.actor.num_ranks)


def check_cluster(config: BaseRunConfig, needs: ResourceRequest, gpu_roles: str) -> None:
    """Compares the resources that any run needs with those of the cluster; see :func:`check_resources`.

    Args:
        config: The run.
        needs: Resources that the run needs.
        gpu_roles: What the GPUs are for, for messages.
    """
    check_zero_stage(config)
    has = ray.cluster_resources()
    ranks = config.actor.num_ranks
    if has.get("GPU", 0) < needs.gpus:
        raise ValueError(
            f"the run needs {needs.gpus} GPUs ({gpu_roles}); the Ray cluster has {has.get('GPU', 0):g}. "
            f"Lower actor.num_nodes x actor.num_gpus_per_node (now {ranks}) or rollout.num_workers, set "
            "train.colocate_actor_ref true, or add nodes; without real GPUs, declare them: "
            f"`ray start --head --num-gpus {needs.gpus}`"
        )
    if has.get("CPU", 0) < needs.cpus:
        raise ValueError(
            f"the run needs {needs.cpus} CPUs (1 for each model rank, num_workers x num_cpus for each reward); "
            f"the Ray cluster has {has.get('CPU', 0):g}. Lower num_cpus or num_workers of a reward, or declare more: "
            f"`ray start --head --num-cpus {needs.cpus}`"
        )


def _gpu_roles(config: RunConfig) -> str:
    ranks = config.num_policy_ranks
    roles = [f"{ranks} for the policy"]
    if config.has_reference_workers and config.train.colocate_actor_ref:
        roles = [f"{ranks} for policy and reference together"]
    elif config.has_reference_workers:
        roles.append(f"{ranks} for the reference")
    if config.rollout.num_workers:
        roles.append(f"{config.rollout.num_workers} for rollouts")
    return " and ".join(roles)
