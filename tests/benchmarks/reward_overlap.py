"""Compares a step in which rewards of half a second run while the models score with one in which they run after it.

python tests/benchmarks/reward_overlap.py

The reward sleeps, like a reward that waits for a judge. Both kinds of steps belong to one run on the same Ray actors.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray
import torch
from measure import interleaved, row, write
from ray_overhead import Nowhere, digits, small_run, trainer

from unigrpo.distributed.placement import start_groups
from unigrpo.distributed.reward_pool import RewardPool
from unigrpo.records import RewardOutput, Rollout

ROUNDS = 6
REWARD_SECONDS = 0.5


def slow_digits(*, completions: list[str], **_: Any) -> list[float]:
    """Returns the same reward after a pause."""
    time.sleep(REWARD_SECONDS)
    return digits(completions=completions)


class Afterwards:
    """Rewards that start only when the trainer waits for them."""

    def __init__(self, rewards: RewardPool) -> None:
        self.names, self.score, self.close = rewards.names, rewards.score, rewards.close

    def start(self, rollouts: Sequence[Rollout]) -> Callable[[], tuple[list[RewardOutput], dict[str, float]]]:
        return partial(self.score, rollouts)


def main() -> None:
    torch.set_num_threads(1)
    config = small_run(f"{__file__}:slow_digits", num_steps=2 * (ROUNDS + 1))
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, logging_level=logging.ERROR)
    groups = start_groups(config)
    try:
        with tempfile.TemporaryDirectory() as folder:
            models = {"policy": groups.policy, "reference": groups.reference}
            meanwhile = trainer(config, folder, **models, reward=groups.reward)
            afterwards = trainer(config, folder, **models, reward=Afterwards(groups.reward))
            seconds = interleaved(
                {
                    "afterwards": lambda: afterwards.train_step(0, Nowhere()),
                    "meanwhile": lambda: meanwhile.train_step(0, Nowhere()),
                },
                ROUNDS,
            )
    finally:
        groups.close()
        ray.shutdown()
    what = f"a step whose rewards take {REWARD_SECONDS:g} s"
    write("reward_overlap", [row(what, seconds["afterwards"], seconds["meanwhile"], "s")])


if __name__ == "__main__":
    main()
