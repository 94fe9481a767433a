"""The behaviour policy: the weights and the sampler that generated the responses of a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.entries import Entries
from unigrpo.algorithm.objective.base import Objective
from unigrpo.config import TASKS, RunConfig
from unigrpo.records import TrainSample


def behaviour_log_probs(
    config: RunConfig,
    entries: Entries,
    scored: Sequence[tuple[TrainSample, int]],
    k: int,
) -> Float[Tensor, " N"] | None:
    """Returns the log-probabilities of the entries under the behaviour policy; None if it is the old policy.

    If the steps of the sampler are scored, they are those that the sampler recorded, including effects of older
    weights, a cache or guidance. Otherwise they are those of the older weights in the same views.

    Args:
        config: The run.
        entries: Entries of all scored samples.
        scored: The scored samples, and how many entries each has.
        k: Inner update.
    """
    if replays_the_sampler(config):
        places = entries.position.cpu().split([number for _, number in scored])
        parts = [s.rollout.commit_log_probs[at] for (s, _), at in zip(scored, places, strict=True)]
    else:
        parts = [s.behaviour_log_probs[k] for s, _ in scored if s.behaviour_log_probs is not None]
        if not parts:
            return None
    return torch.cat([torch.zeros(0), *parts]).to(entries.weight.device)


def replays_the_sampler(config: RunConfig) -> bool:
    """Whether the views of all tasks are those of the sampler, step by step."""
    used = [config.likelihood(task) for task in TASKS]
    return all(one.name == "trace" and one.options.get("steps_per_view", 1) == 1 for one in used)


def check_behaviour(config: RunConfig, objective: Objective) -> None:
    """Raises an error if an objective weights by the behaviour policy and its probabilities are not known.

    Raises:
        ConfigError: Rollouts are not stale, and their sampler's steps are not scored.
    """
    if "behaviour" in objective.needs and config.rollout.max_staleness == 0 and not replays_the_sampler(config):
        raise ConfigError(
            "algo.objective.options.max_importance needs the sampler's probabilities, which are known for "
            "rollout.max_staleness 1, or for algo.likelihood.name trace with steps_per_view 1 for all tasks; set one "
            "of them, or max_importance 0"
        )
