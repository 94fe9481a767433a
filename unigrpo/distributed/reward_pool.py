"""Reward processes that are Ray actors."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rewards.runtime.host import RewardInfo
from rewards.runtime.process import CLOSE_SECONDS, DeadlineMissed, ProcessFailed
from rewards.runtime.scoring import Scores
from unigrpo import ConfigError
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.config.reward import POLICY_GPU_FRACTION
from unigrpo.distributed.ray_group import cause_of
from unigrpo.distributed.reward_actor import RewardActor
from unigrpo.records import Prompt
from unigrpo.workers import reward_pool
from unigrpo.workers.reward import reward_spec, with_local_models
from unigrpo.workers.reward_pool import Trial


class RewardPool(reward_pool.RewardPool):
    """All rewards of a run, each in its own Ray actors. The samples of a step are in Ray's store."""

    def __init__(self, config: RewardConfig, policy: PlacementGroup | None = None) -> None:
        """Starts all actors; see the base class.

        Args:
            config: The rewards.
            policy: Bundles of the policy's GPUs, each of which has room for a process of every reward with
                ``on_policy_gpus``. Without them, such a reward has one process, on any GPU.
        """
        self._policy = policy
        self._num_started: Counter[str] = Counter()
        bundles = policy.bundle_count if policy else 1
        terms = tuple(_beside_the_policy(term, bundles) if term.on_policy_gpus else term for term in config.terms)
        self._beside = {term.name for term in config.terms if term.on_policy_gpus} if policy else set()
        super().__init__(replace(config, terms=terms), self._start_actor, share=ray.put, free_cpus=_free_cpus)

    def _start_actor(self, term: RewardTermConfig) -> _RayReward:
        """Starts a process of a reward; the first ones beside the policy take the bundles in turn."""
        if self._policy is None or term.name not in self._beside:
            return _RayReward(term)
        number = self._num_started[term.name]
        self._num_started[term.name] += 1
        bundle = number if number < self._policy.bundle_count else -1  # one that is started again takes the free place
        return _RayReward(term, PlacementGroupSchedulingStrategy(self._policy, bundle))


def check_rewards(config: RewardConfig, prompts: Sequence[Prompt] = (), samples_per_step: int = 0) -> list[Trial]:
    """Loads every reward in its own process, calls it with two of the prompts, and ends it again.

    Args:
        config: The rewards.
        prompts: Prompts of the run; without any, no reward is called.
        samples_per_step: Samples of a step.

    Raises:
        ConfigError: A model of a reward is neither on this machine nor on the Hub.
        RewardNotReady: A reward cannot be loaded, such as a judge that is down or weights of another model, it fails,
            or its deadline cannot be met. The message names it.
    """
    with contextlib.closing(RewardPool(with_local_models(config))) as pool:
        pool.initialize(prompts, samples_per_step)
        return pool.try_out(prompts, samples_per_step) if prompts else []


def _beside_the_policy(term: RewardTermConfig, num_gpus: int) -> RewardTermConfig:
    """Returns a reward with ``on_policy_gpus`` as one with a process on each of these GPUs."""
    return replace(term, on_policy_gpus=False, num_gpus=POLICY_GPU_FRACTION, num_workers=num_gpus)


def _free_cpus() -> float:
    return ray.available_resources().get("CPU", 0.0)


class _RayReward:
    """A reward in a Ray actor; a :class:`~unigrpo.workers.reward_pool.RewardHandle`."""

    def __init__(self, term: RewardTermConfig, place: PlacementGroupSchedulingStrategy | None = None) -> None:
        actor: Any = ray.remote(num_cpus=term.cpus, num_gpus=term.num_gpus)(RewardActor)
        options: dict[str, Any] = {"scheduling_strategy": place} if place else {}
        self._actor = actor.options(max_concurrency=term.concurrency, **options).remote(reward_spec(term))

    def load(self, *, seconds: float) -> RewardInfo:
        return self._outcome(self._actor.load.remote(), seconds)

    def score(self, inputs: Any, start: int, stop: int, *, seconds: float) -> Scores:
        try:
            return self._outcome(self._actor.score_range.remote(inputs, start, stop), seconds)
        except ValueError as error:
            raise ProcessFailed(f"failed: {error}") from error

    def close(self) -> None:
        ray.wait([self._actor.close.remote()], timeout=CLOSE_SECONDS)
        self.kill()

    def kill(self) -> None:
        ray.kill(self._actor)

    def _outcome(self, ref: Any, seconds: float) -> Any:
        try:
            return ray.get(ref, timeout=seconds)
        except GetTimeoutError as error:
            raise DeadlineMissed(f"did not answer within {seconds:g} s") from error
        except RayActorError as error:
            raise ProcessFailed("ended its own process") from error
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise ConfigError(str(error.cause)) from error
            raise ProcessFailed(f"failed: {cause_of(error)}") from error
        except RayError as error:
            raise ProcessFailed(f"failed: {cause_of(error)}") from error
