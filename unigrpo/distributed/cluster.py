"""Connecting to the Ray cluster of a run, and comparing its resources with those that the run needs."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray._private.services import canonicalize_bootstrap_address

from unigrpo import ConfigError
from unigrpo.config import BaseRunConfig, RunConfig
from unigrpo.distributed.local_heads import local_heads

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
SPECIAL = re.compile(r"""[\s"'$`\\&|;<>()*?\[\]!{}~#]""")
"""Characters that a shell interprets."""
PROBE_SECONDS = 10.0
"""Longest time in seconds until the cluster's address accepts a connection."""


WORKER_VARIABLES = {
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    # By its own limits glibc returns the memory of freed tensors to the system, and every pass of a CPU gets it again
    # page by page: 70,000 page faults in a step of the tiny model, and 200 with these limits.
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    # Threads that wait for each other sleep. By default they compute on, and where other processes want the cores,
    # that is the time of those who are waited for: passes of the tiny model took ten times as long.
    "OMP_WAIT_POLICY": "PASSIVE",
    # One GPU serves passes of many shapes: generation, scoring and updates. Memory that one of them has freed would
    # stay in blocks that are too small for the next.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
"""Environment variables of the workers, unless this process sets them itself."""


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """GPUs and CPUs that a run requests from Ray."""

    gpus: int
    cpus: int


def worker_variables() -> dict[str, str]:
    """Returns the environment variables of the workers that this process does not set itself."""
    given = set(os.environ)
    if "PYTORCH_CUDA_ALLOC_CONF" in given:  # the old name, which PyTorch reads too
        given.add("PYTORCH_ALLOC_CONF")
    return {name: value for name, value in WORKER_VARIABLES.items() if name not in given}


def connect(needs: ResourceRequest) -> None:
    """Connects this process to a cluster: that of ``RAY_ADDRESS``, which a job has, or the user's own on this machine.

    Raises:
        ValueError: There is no such cluster, it does not answer, or it cannot start workers.
    """
    check_interpreter(sys.executable)
    variables = worker_variables() | loopback_without_proxy()
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # workers' names in files without colours
    if os.environ.get("RAY_ADDRESS") == "auto":
        del os.environ["RAY_ADDRESS"]  # with it, Ray takes any cluster
    try:
        cluster = find_cluster()
        address = str(canonicalize_bootstrap_address(cluster.address))
        _probe(address)
        with warnings.catch_warnings(), _own_signal_handler():
            warnings.filterwarnings("ignore", message="Tip: In future versions of Ray")
            ray.init(
                address=address,
                ignore_reinit_error=True,
                logging_level=logging.WARNING,  # the line below says what its lines say
                runtime_env={"env_vars": variables},
            )
        logger.info("joined the Ray cluster at %s", cluster.whose)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"no Ray cluster can be reached ({str(error).splitlines()[0]}); start one with `ray start --head` "
            f"(without GPUs: `ray start --head --num-gpus {needs.gpus} --num-cpus {needs.cpus}`), or run "
            "`bash launch/quickstart.sh`, which does"
        ) from error


@contextlib.contextmanager
def _own_signal_handler() -> Iterator[None]:
    """Keeps the handler of SIGTERM, which Ray replaces by one that ends the process without a message."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # from Ray's handler
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def check_interpreter(path: str) -> None:
    """Raises an error for a Python path with which Ray cannot start workers, for which the run would wait without end.

    Ray puts this path unquoted into a shell command.

    Raises:
        ConfigError: The path has a character that a shell interprets.
    """
    found = SPECIAL.search(path)
    if found:
        raise ConfigError(
            f"the path of Python, {path}, has {found[0]!r}, which a shell interprets, and Ray starts no workers by "
            "such a path. Put the environment into a folder without spaces and such characters"
        )


@dataclass(frozen=True)
class FoundCluster:
    """A cluster to join."""

    address: str
    """``host:port``."""
    whose: str
    """The address, and who started the cluster or named it."""


def find_cluster() -> FoundCluster:
    """Returns the cluster that ``RAY_ADDRESS`` names, or the only one of this user on this machine.

    A cluster of another user is joined only if ``RAY_ADDRESS`` names it, because it would run the code of this user,
    and its owner may stop it.

    Raises:
        ConfigError: ``RAY_ADDRESS`` is no address of a head, or several clusters could be meant.
        ConnectionError: There is none.
    """
    heads = local_heads()
    address = os.environ.get("RAY_ADDRESS", "")
    if address:
        if "://" in address:
            raise ConfigError(
                f"RAY_ADDRESS is {address}, which is not the address of a head; give HOST:PORT, such as HOST:6379, or "
                "submit a job to that URL with launch/submit_unigrpo.sh"
            )
        known = [head for head in heads if head.address == address]
        return FoundCluster(address, f"{known[0] if known else address}, as RAY_ADDRESS says")
    own = [head for head in heads if head.is_own]
    if len(own) > 1:
        shown = "; ".join(map(str, own))
        raise ConfigError(
            f"you have started several Ray clusters here ({shown}); choose one: RAY_ADDRESS={own[0].address}"
        )
    if not own:
        shown = "; ".join(map(str, heads))
        others = f"; not joined unless RAY_ADDRESS names it: {shown}" if heads else ""
        raise ConnectionError(f"RAY_ADDRESS is not set, and you have started no cluster on this machine{others}")
    return FoundCluster(own[0].address, str(own[0]))


def loopback_without_proxy() -> dict[str, str]:
    """Returns environment variables with which requests to this machine use no proxy, which could not reach it.

    They are also set in this process. Without a proxy, nothing is set.
    """
    if not any(os.environ.get(name) for name in PROXIES):
        return {}
    given = [
        name for text in (os.environ.get("no_proxy"), os.environ.get("NO_PROXY")) for name in (text or "").split(",")
    ]
    names = ",".join(dict.fromkeys([*filter(None, given), *LOOPBACK]))
    variables = {"no_proxy": names, "NO_PROXY": names}  # programs read the one or the other
    os.environ.update(variables)
    return variables


def _probe(address: str) -> None:
    """Fails at once if nothing listens at an address; Ray itself would retry for minutes."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers at {address}: {error}") from error


def required(config: RunConfig) -> ResourceRequest:
    """Returns the GPUs and CPUs of all workers: one of each for a policy rank, and those of the reward processes."""
    models = config.actor.num_ranks
    if config.has_dedicated_reference_gpus:
        models *= 2
    models += config.rollout.num_workers
    terms, ranks = config.reward.terms, config.actor.num_ranks
    return ResourceRequest(
        gpus=models + math.ceil(sum(t.min_workers * t.num_gpus for t in terms)),
        cpus=models + math.ceil(sum((ranks if t.on_policy_gpus else t.min_workers) * t.cpus for t in terms)),
    )


def check_zero_stage(config: BaseRunConfig) -> None:
    """Raises an error for a ZeRO stage with which errors would not be detected.

    Raises:
        ValueError: ZeRO-0, with which DeepSpeed reports no gradient norm and accepts non-finite gradients.
    """
    if config.ds.zero_stage == 0:
        raise ConfigError("ds.zero_stage is 0; choose 1, 2 or 3: without ZeRO, DeepSpeed does not check gradients")


def check_resources(config: RunConfig) -> None:
    """Compares the resources that the run needs with those of the cluster, before anything starts.

    Raises:
        ValueError: The cluster is too small, or the run cannot work on any cluster; see :func:`check_zero_stage`.
    """
    check_cluster(config, required(config), _gpu_roles(config))


def stage_needs(config: BaseRunConfig) -> ResourceRequest:
    """Returns the GPUs and CPUs of a pretraining or Mix-CoT stage: one of each for a rank."""
    return ResourceRequest(gpus=config.actor.num_ranks, cpus=config.actor.num_ranks)


def check_cluster(config: BaseRunConfig, needs: ResourceRequest, gpu_roles: str) -> None:
    """Compares the resources that any run needs with those of the cluster; see :func:`check_resources`.

    Args:
        config: The run.
        needs: Resources that the run needs.
        gpu_roles: Purpose of the GPUs, for messages.
    """
    check_zero_stage(config)
    has = ray.cluster_resources()
    ranks = config.actor.num_ranks
    if has.get("GPU", 0) < needs.gpus:
        raise ConfigError(
            f"the run needs {needs.gpus} GPUs ({gpu_roles}); the Ray cluster has {has.get('GPU', 0):g}. "
            f"Lower actor.num_nodes x actor.num_gpus_per_node (now {ranks}) or rollout.num_workers, set "
            "train.colocate_actor_ref true, or add nodes; without real GPUs, declare them: "
            f"`ray start --head --num-gpus {needs.gpus}`"
        )
    if has.get("CPU", 0) < needs.cpus:
        raise ConfigError(
            f"the run needs {needs.cpus} CPUs (1 for each model rank, num_workers x num_cpus for each reward); "
            f"the Ray cluster has {has.get('CPU', 0):g}. Lower num_cpus or num_workers of a reward, or declare more: "
            f"`ray start --head --num-cpus {needs.cpus}`"
        )


def _gpu_roles(config: RunConfig) -> str:
    ranks = config.actor.num_ranks
    roles = [f"{ranks} for the policy"]
    if config.has_reference_workers and config.train.colocate_actor_ref:
        roles = [f"{ranks} for policy and reference together"]
    elif config.has_reference_workers:
        roles.append(f"{ranks} for the reference")
    if config.rollout.num_workers:
        roles.append(f"{config.rollout.num_workers} for rollouts")
    return " and ".join(roles)
