"""Makes steps of the real trainer on Ray with workers that compute nothing, in this checkout or in one at 55aacb9.

PYTHONPATH=CHECKOUT python tests/benchmarks/wire_step.py IMAGE_SIZE

Prints one line of JSON: megabytes that the driver serialized and deserialized in a step, wall seconds of a step
without the workers' own time, and CPU seconds of the driver.
"""

from __future__ import annotations

import inspect
import json
import logging
import statistics
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray._private.serialization import SerializationContext

from unigrpo.config import RewardConfig, RewardTermConfig, RolloutConfig, RunConfig, TrainConfig
from unigrpo.distributed.ray_group import RayGroup
from unigrpo.distributed.reward_pool import RewardPool
from unigrpo.records import Prompt, Rollout

NUM_STEPS, WARM_UP = 5, 2
NUM_PROMPTS, GROUP = 48, 8
TEXT, CODES = 64, 256
REWARDS = Path(__file__).with_name("image_brightness.py")
IS_COLUMNAR = "key" in inspect.signature(Rollout).parameters
"""Whether samples are sent as columnar batches, which was not the case at 55aacb9."""


class Worker:
    """A policy and a reference that return fixed results."""

    def __init__(self, image_size: int) -> None:
        self._image = np.random.default_rng(0).integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)

    def generate(self, requests: Any, *_: Any) -> Any:
        rollouts = [self._rollout(request) for request in requests]
        if not IS_COLUMNAR:
            return rollouts
        batches: Any = import_module("unigrpo.batches")
        stores: Any = import_module("unigrpo.image_store")
        batch = batches.GeneratedBatch.of(rollouts)
        return batch.stored(stores.ArrayStore(batch.pixels()))

    def log_likelihood(self, samples: Any, *_: Any) -> Any:
        if not IS_COLUMNAR:
            return [torch.zeros(sample.weight.shape[0], sample.weight.shape[-1]) for sample in samples]
        batches: Any = import_module("unigrpo.batches")
        half = (TEXT + CODES) // 2
        return batches.LogProbs.of([(torch.zeros(half), torch.zeros(half)) for _ in range(len(samples))])

    def update(self, samples: Any, *_: Any) -> list[dict[str, float]]:
        return [
            {
                "loss/policy": float(len(samples)),
                "ratio/max": 1.0,
                "ratio/first_update_deviation": 0.0,
                "update/skipped": 0.0,
            }
        ]

    def _rollout(self, request: Any) -> Rollout:
        draws = torch.Generator().manual_seed(request.sample_id)
        length = 40 + TEXT + CODES
        written = torch.arange(length) >= 40
        image = self._image + np.uint8(request.sample_id % 7)  # every sample has its own image
        names: dict[str, Any] = {"request": request, "image": image}
        if IS_COLUMNAR:
            stores: Any = import_module("unigrpo.image_store")
            stored = stores.StoredImage(stores.ArrayStore([image]), 0)
            names = {"key": request.key, "prompt": request.prompt, "image": stored}
        return Rollout(
            policy_version=0,
            token_ids=torch.randint(0, 100_000, (length,), generator=draws),
            response_mask=written,
            scored_mask=written,
            image_mask=torch.arange(length) >= 40 + TEXT,
            commit_step=torch.randint(0, 15, (length,), generator=draws).where(written, torch.tensor(-1)),
            commit_log_probs=-torch.rand(length, generator=draws),
            completion=f"<think>thoughts of sample {request.sample_id}</think>",
            **names,
        )


def actor(image_size: int) -> Any:
    """Returns an actor of this checkout with the worker."""
    actors: Any = import_module("unigrpo.distributed.actors")
    base = actors.WorkerActor if hasattr(actors, "WorkerActor") else import_module("unigrpo.distributed.host").Host

    class WireActor(base):
        def __init__(self) -> None:
            self.worker = Worker(image_size)

    return ray.remote(num_cpus=0.5)(WireActor).remote()


class Bytes:
    """Counts the bytes that this process serializes for others and deserializes from them."""

    def __init__(self) -> None:
        self.total = 0
        serialize, deserialize = SerializationContext.serialize, SerializationContext.deserialize_objects

        def counted_out(context: Any, value: Any) -> Any:
            found = serialize(context, value)
            self.total += found.total_bytes
            return found

        def counted_in(context: Any, data: Any, *rest: Any) -> Any:
            for one in data:
                parts = one if isinstance(one, tuple) else (getattr(one, "data", None), getattr(one, "metadata", None))
                self.total += sum(len(part) for part in parts if part is not None and hasattr(part, "__len__"))
            return deserialize(context, data, *rest)

        context: Any = SerializationContext
        context.serialize, context.deserialize_objects = counted_out, counted_in


class Nowhere:
    """An output that discards everything."""

    def metrics(self, *_: Any) -> None: ...

    def rollouts(self, *_: Any) -> None: ...

    def scores(self, *_: Any) -> None: ...

    def images(self, *_: Any) -> None: ...

    def progress(self, *_: Any) -> None: ...


def main() -> None:
    torch.set_num_threads(1)
    image_size = int(sys.argv[1])
    never_compared: dict[str, Any] = {"logprob_mismatch_steps" if IS_COLUMNAR else "parity_steps": 0}
    config = RunConfig(
        rollout=RolloutConfig(batch_size=NUM_PROMPTS, n_samples_per_prompt=GROUP),
        reward=RewardConfig(terms=tuple(RewardTermConfig(name=f"{REWARDS}:{name}") for name in ("red", "green"))),
        train=TrainConfig(num_steps=NUM_STEPS, num_inner_updates=2, **never_compared),
    )
    prompts = [Prompt(id=f"p.jsonl:{i}", text=f"a drawing of {i}", task="r2i", label=str(i)) for i in range(96)]
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False,
        object_store_memory=2**30,
    )  # fmt: skip
    policy, reference = RayGroup("policy", [actor(image_size)]), RayGroup("reference", [actor(image_size)])
    rewards = RewardPool(config.reward)
    rewards.initialize()
    found = "unigrpo.trainers.unigrpo" if IS_COLUMNAR else "unigrpo.trainer"
    stores = "unigrpo.runs.checkpoints" if IS_COLUMNAR else "unigrpo.checkpoint"
    counted = Bytes()
    wall, cpu, megabytes = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = import_module(found).UniGRPOTrainer(
            config, policy=policy, reference=reference, reward=rewards, prompts=prompts, eval_prompts=[],
            checkpoints=import_module(stores).CheckpointStore(Path(folder), max_num=1),
        )  # fmt: skip
        for step in range(NUM_STEPS):
            counted.total = 0
            began, began_cpu = time.perf_counter(), time.process_time()
            trainer.train_step(step, Nowhere())
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - began_cpu)
            megabytes.append(counted.total / 1e6)
    rewards.close()
    for group in (policy, reference):
        group.close()
    ray.shutdown()
    result = {"megabytes": megabytes, "seconds": wall, "driver_cpu": cpu}
    sys.stdout.write(json.dumps({name: statistics.median(values[WARM_UP:]) for name, values in result.items()}) + "\n")


if __name__ == "__main__":
    main()
