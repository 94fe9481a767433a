"""Measures the seconds of a step in which no worker computes, on Ray and in one process, which make steps in turn.

python tests/benchmarks/ray_overhead.py

The seconds in which the workers compute are subtracted from both. The difference is the time that Ray and its actors
add.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from measure import extra_row, write
from transformers import AutoTokenizer

from unigrpo.config import (
    DeepSpeedConfig,
    RewardConfig,
    RewardTermConfig,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
    TrainConfig,
)
from unigrpo.data.prompts import load_prompts
from unigrpo.distributed.placement import start_groups
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.trainers.base import NoOutput
from unigrpo.trainers.unigrpo import UniGRPOTrainer
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import ScoringSettings
from unigrpo.workers.group import LocalGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reference import ReferenceWorker
from unigrpo.workers.reward import LocalRewards

ROOT = Path(__file__).parents[2]
NUM_STEPS = 8
MOST_SECONDS = 0.3


def digits(*, completions: list[str], **_: Any) -> list[float]:
    """A reward that takes no time: the fraction of digits."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]


class Nowhere(NoOutput):
    """An output that discards everything."""


def main() -> None:
    torch.set_num_threads(1)
    config = small_run(f"{__file__}:digits", NUM_STEPS)
    ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, logging_level=logging.ERROR)
    groups = start_groups(config)
    try:
        with tempfile.TemporaryDirectory() as folder:
            parts = {"policy": groups.policy, "reference": groups.reference, "reward": groups.reward}
            trainers = {"ray": trainer(config, folder, **parts), "here": trainer(config, folder, **here(config))}
            seconds: dict[str, list[float]] = {name: [] for name in trainers}
            for step in range(NUM_STEPS):
                for name, one in trainers.items():
                    started = time.perf_counter()
                    metrics = one.train_step(step, Nowhere())
                    seconds[name].append(time.perf_counter() - started - worked(metrics))
    finally:
        groups.close()
        ray.shutdown()
    later = {name: values[2:] for name, values in seconds.items()}  # the first steps start threads and connections
    gaps = [a - b for a, b in zip(later["ray"], later["here"], strict=True)]
    base = statistics.median(later["here"])
    rows = [
        extra_row(
            "a step without the workers' own time, on Ray", base, base + statistics.median(gaps), "s", MOST_SECONDS
        )
    ]
    write("ray_overhead", rows, seconds={name: [round(s, 4) for s in values] for name, values in seconds.items()})


def small_run(reward: str, num_steps: int) -> RunConfig:
    """Returns a run on sums with 384 samples in each step and one reward."""
    return RunConfig(
        rollout=RolloutConfig(
            batch_size=48,
            n_samples_per_prompt=8,
            text=TextSamplingConfig(max_new_tokens=16, num_denoising_steps=8, block_length=8),
        ),
        reward=RewardConfig(terms=(RewardTermConfig(name=reward),)),
        train=TrainConfig(num_steps=num_steps, num_inner_updates=2, logprob_mismatch_steps=0),
        ds=DeepSpeedConfig(param_dtype="fp32"),
    )


def worked(metrics: dict[str, float]) -> float:
    """Returns the sum of the seconds in which the workers computed."""
    booked = {n: v for n, v in metrics.items() if n.startswith("perf/") and n.endswith("_seconds")}
    return sum(value for name, value in booked.items() if not name.endswith("_idle_seconds"))


def trainer(config: RunConfig, folder: str, **parts: Any) -> UniGRPOTrainer:
    """Returns a trainer on these workers."""
    prompts = load_prompts(str(ROOT / "examples/tiny/prompts/train.jsonl"))
    store = CheckpointStore(Path(folder), max_num=1)
    return UniGRPOTrainer(config, prompts=prompts, eval_prompts=[], checkpoints=store, **parts)


def here(config: RunConfig) -> dict[str, Any]:
    """Returns the same workers in this process."""
    folder = ROOT / config.actor.model_name_or_path
    model, reference = (MMadaModelLM.from_pretrained(folder) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = Vocabulary.from_pretrained_parts(model.config, tokenizer)
    engine = LocalEngine(model, config.actor, config.num_optimizer_steps)
    settings = ScoringSettings.of_run(config, vocabulary)
    return {
        "policy": LocalGroup(PolicyWorker(config, engine, tokenizer)),
        "reference": LocalGroup(ReferenceWorker(config, reference.eval(), torch.device("cpu"), settings)),
        "reward": LocalRewards(config.reward),
    }


if __name__ == "__main__":
    main()
