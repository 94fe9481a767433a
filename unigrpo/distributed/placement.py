"""Placement of the worker groups of a run on the GPUs and CPUs of a Ray cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from unigrpo import ConfigError
from unigrpo.config import BaseRunConfig, RunConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.config.reward import POLICY_GPU_FRACTION
from unigrpo.data.corpora.dataloader import with_local_tables
from unigrpo.distributed import weight_channel
from unigrpo.distributed.actors import DenoisingActor, ModelActor, PolicyActor, ReferenceActor, RolloutActor
from unigrpo.distributed.ray_group import REMINDER_SECONDS, RayGroup, WorkerError, cause_of
from unigrpo.distributed.reward_pool import RewardPool
from unigrpo.models.loading import with_local_folders
from unigrpo.records import Prompt
from unigrpo.workers.reward import with_local_models

logger = logging.getLogger(__name__)
PLACEMENT_SECONDS = 60.0
"""Longest time in seconds to wait for resources of the cluster that other jobs may use."""
START_SECONDS = 900.0
"""Longest time in seconds until the first process of a group answers, before it loads anything. It imports torch and
DeepSpeed, which takes minutes on a busy machine or from a slow file system."""


@contextmanager
def logged_seconds(part: str) -> Iterator[None]:
    """Logs how long a part of the start took."""
    started = time.monotonic()
    yield
    logger.info("start of %s: %.1f s", part, time.monotonic() - started)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The worker groups of a run."""

    policy: RayGroup
    reference: RayGroup | None
    rollout: RayGroup | None
    reward: RewardPool
    placements: tuple[PlacementGroup, ...]

    @property
    def models(self) -> list[RayGroup]:
        """The groups of model workers that this run has."""
        return [group for group in (self.policy, self.reference, self.rollout) if group is not None]

    def close(self) -> None:
        """Ends all workers and releases their resources."""
        self.reward.close()
        for group in self.models:
            group.close()
        for placement in self.placements:
            remove_placement_group(placement)


def start_groups(config: RunConfig, prompts: Sequence[Prompt] = ()) -> Groups:
    """Starts all workers of a run, after :func:`~unigrpo.distributed.cluster.check_resources`.

    Raises:
        ValueError: The cluster's resources are not free.
        CheckpointError: The Hub does not have the policy or the image tokenizer.
        ConfigError: The Hub does not have a model of a reward.
        WorkerError: A worker could not start.
    """
    beside = [term for term in config.reward.terms if term.on_policy_gpus]
    model_gpus = 1.0 - POLICY_GPU_FRACTION * len(beside)
    is_shared = config.has_reference_workers and config.train.colocate_actor_ref
    gpu_fraction = model_gpus / 2 if is_shared else model_gpus
    of_workers, rewards = with_local_folders(config), with_local_models(config.reward)
    placements = [place(config.actor.num_ranks, 1 + sum(term.cpus for term in beside))]
    reference = rollout = None
    policy = model_group("policy", PolicyActor, config, placements[0], gpu_fraction)
    if config.has_reference_workers:
        if not is_shared:
            placements.append(place(config.actor.num_ranks))
        reference = model_group(
            "reference", ReferenceActor, config, placements[-1], gpu_fraction if is_shared else 1.0
        )
    if config.rollout.num_workers:
        placements.append(place(config.rollout.num_workers))
        rollout = rollout_group(placements[-1])
    groups = Groups(
        policy=policy,
        reference=reference,
        rollout=rollout,
        reward=RewardPool(rewards, placements[0]),
        placements=tuple(placements),
    )
    try:
        with logged_seconds("rewards"):
            groups.reward.initialize(prompts, config.num_generated_per_step)
        for group in groups.models:
            with logged_seconds(group.role):
                group.initialize(of_workers)
        if rollout is not None:
            with logged_seconds("channel for weights"):
                weight_channel.connect(policy, rollout)
    except BaseException:
        groups.close()
        raise
    return groups


@dataclass(frozen=True, kw_only=True)
class StageGroups:
    """The workers of a pretraining or Mix-CoT stage."""

    workers: RayGroup
    placement: PlacementGroup

    def close(self) -> None:
        """Ends all workers and releases their resources."""
        self.workers.close()
        remove_placement_group(self.placement)


def start_stage(config: StageConfig) -> StageGroups:
    """Starts the workers of a stage, after :func:`~unigrpo.distributed.cluster.check_cluster`.

    Raises:
        ValueError: The cluster's resources are not free.
        CheckpointError: The Hub does not have the policy or the image tokenizer.
        WorkerError: A worker could not start.
    """
    of_workers = with_local_tables(with_local_folders(config))
    placement = place(config.actor.num_ranks)
    groups = StageGroups(workers=model_group("stage", DenoisingActor, config, placement, 1.0), placement=placement)
    try:
        with logged_seconds(groups.workers.role):
            groups.workers.initialize(of_workers)
    except BaseException:
        groups.close()
        raise
    return groups


class ModelGroup(RayGroup):
    """The ranks of a process group. Their processes start at the same time; the first one opens the rendezvous."""

    def initialize(self, config: BaseRunConfig) -> None:
        """Builds the workers when the first process has started.

        Raises:
            WorkerError: It cannot start, or has not started within :data:`START_SECONDS`.
        """
        _wait_for_start(self.actors[0], self.role)
        super().initialize(config)


def model_group(
    role: str, actor: type[ModelActor], config: BaseRunConfig, placement: PlacementGroup, gpu_fraction: float
) -> ModelGroup:
    """Returns one actor for each policy rank, with the fraction ``gpu_fraction`` of a GPU; two halves use one GPU.

    The ranks of one node are consecutive. OpenRLHF's group of actors would use the bundles in the order of their
    numbers, which Ray spreads over the nodes in any order, and would start the other processes after the first.
    """
    start: Any = ray.remote(num_gpus=gpu_fraction, num_cpus=gpu_fraction)(actor)
    num_ranks = config.actor.num_ranks
    first, *others = (PlacementGroupSchedulingStrategy(placement, bundle) for bundle in bundles_by_node(placement))
    actors = [start.options(scheduling_strategy=first).remote(num_ranks, 0)]
    meeting = [actors[0].get_master_addr_port.remote()]  # outside a list, Ray would wait for it to start the others
    for rank, bundle in enumerate(others, start=1):
        actors.append(start.options(scheduling_strategy=bundle).remote(num_ranks, rank, meeting))
    return ModelGroup(role, actors)


def _wait_for_start(actor: Any, role: str) -> None:
    """Waits until the first process of a group has started.

    Raises:
        WorkerError: It cannot start, or has not started within :data:`START_SECONDS`.
    """
    answer = actor.get_master_addr_port.remote()
    ending = time.monotonic() + START_SECONDS
    while not ray.wait([answer], timeout=min(REMINDER_SECONDS, max(ending - time.monotonic(), 0.0)))[0]:
        seconds = START_SECONDS - (ending - time.monotonic())
        what = (
            f"the first process of {role} has not started after {seconds:.0f} s; `ray status` shows whether the "
            "cluster has room for it, and the logs of Ray whether it can start a process at all"
        )
        if time.monotonic() >= ending:
            ray.kill(actor)
            raise WorkerError(f"{what}. Run the same command again")
        logger.warning("%s", what)
    try:
        ray.get(answer)
    except RayError as error:
        raise WorkerError(f"the first process of {role} could not start: {cause_of(error)}") from error


def rollout_group(placement: PlacementGroup) -> RayGroup:
    """Returns one actor with a GPU for each bundle of the placement group, those of one node after each other."""
    start: Any = ray.remote(num_gpus=1, num_cpus=1)(RolloutActor)
    return RayGroup(
        "rollout",
        [
            start.options(scheduling_strategy=PlacementGroupSchedulingStrategy(placement, bundle)).remote()
            for bundle in bundles_by_node(placement)
        ],
    )


def bundles_by_node(placement: PlacementGroup) -> list[int]:
    """Returns the numbers of the bundles of a ready placement group in the order in which ranks take them."""
    table: Any = placement_group_table(placement)
    return sorted_by_node(table["bundles_to_node_id"])


def sorted_by_node(nodes: Mapping[int, str]) -> list[int]:
    """Returns numbers of bundles such that those of one node follow each other.

    Args:
        nodes: The node of each bundle, by the bundle's number.

    Returns:
        The bundles of the node of bundle 0, then those of the node of the smallest bundle that is left, and so on;
        within a node in ascending order.
    """
    by_node: dict[str, list[int]] = {}
    for bundle in sorted(nodes):
        by_node.setdefault(nodes[bundle], []).append(bundle)
    return [bundle for bundles in by_node.values() for bundle in bundles]


def place(num_workers: int, cpus: float = 1) -> PlacementGroup:
    """Reserves one GPU and some CPUs for each worker, on as few nodes as possible."""
    placement = placement_group([{"GPU": 1, "CPU": cpus}] * num_workers, strategy="PACK")
    try:
        ray.get(placement.ready(), timeout=PLACEMENT_SECONDS)
    except GetTimeoutError as error:
        remove_placement_group(placement)
        raise ConfigError(
            f"the Ray cluster has the {num_workers} GPUs of the run, but they were not free within "
            f"{PLACEMENT_SECONDS:g} s; `ray status` shows which are in use, `ray job list` the jobs"
        ) from error
    return placement
