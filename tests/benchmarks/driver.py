"""Measures seconds and bytes of the driver in a step over many GPUs, with the real trainer and workers that compute
nothing.

python tests/benchmarks/driver.py [--gpus 64] [--samples_per_gpu 48] [--image_size 64]

All workers are objects of this process. Data that Ray would send to a worker or back is pickled, counted and
unpickled, as Ray does it, so that the driver does the same work as in a cluster; the network is not simulated. Images
stay with the workers, as they stay in Ray's store, so that their size does not matter. This process computes rewards
of texts.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from measure import extra_row, write
from wire_step import GROUP, Nowhere, Worker

from unigrpo.batches import GeneratedBatch
from unigrpo.config import ActorConfig, RewardConfig, RewardTermConfig, RolloutConfig, RunConfig, TrainConfig
from unigrpo.records import Prompt
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.trainers.unigrpo import UniGRPOTrainer
from unigrpo.workers.group import joined, parts
from unigrpo.workers.reward import LocalRewards
from unigrpo.workers.stats import Work, WorkerStats

NUM_STEPS, WARM_UP = 4, 1
MOST_SECONDS = 10.0
"""Limit of the seconds that the driver uses in a step of 3072 samples: 5% of a step of 220 s."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class HeldImages:
    """An :class:`~unigrpo.image_store.ImageStore` of the images of a worker, of which the driver has only a number."""

    number: int
    held: ClassVar[list[Sequence[np.ndarray]]] = []

    def get(self) -> Sequence[np.ndarray]:
        return self.held[self.number]


class SimulatedGroup:
    """A :class:`~unigrpo.workers.group.WorkerGroup` of one role that counts bytes and the time of the workers."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self.workers = list(workers)
        self.stats = WorkerStats(len(self.workers))
        self.num_bytes = 0
        self.worker_seconds = 0.0
        """CPU seconds of the workers, which do not count as those of the driver."""

    @property
    def size(self) -> int:
        return len(self.workers)

    def map(self, method: Callable[..., Result], items: Any, *args: Any, **kwargs: Any) -> Result:
        own = parts(items, self.size)
        return joined(self._results(method, [(part, *args) for part in own], kwargs))

    def call(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> list[Result]:
        return self._results(method, [args] * self.size, kwargs)

    def start_map(self, method: Callable[..., Result], items: Any, *args: Any, **kwargs: Any) -> Callable[[], Result]:
        result = self.map(method, items, *args, **kwargs)
        return lambda: result

    def start_call(self, method: Callable[..., Result], *args: Any, **kwargs: Any) -> Callable[[], list[Result]]:
        results = self.call(method, *args, **kwargs)
        return lambda: results

    def close(self) -> None:
        """Does nothing, because there are no processes."""

    def _results(self, method: Callable[..., Any], arguments: list[tuple[Any, ...]], kwargs: Any) -> list[Any]:
        sent = [self._counted(pickle.dumps((own, kwargs), protocol=5)) for own in arguments]
        began = time.process_time()
        answers = [
            self._counted(self._answer(worker, method.__name__, data))
            for worker, data in zip(self.workers, sent, strict=True)
        ]
        self.worker_seconds += time.process_time() - began
        self.stats.record(method.__name__, [Work(seconds=0.0)] * self.size)
        return [pickle.loads(answer) for answer in answers]

    def _answer(self, worker: Any, method: str, data: bytes) -> bytes:
        args, kwargs = pickle.loads(data)
        result = getattr(worker, method)(*args, **kwargs)
        if isinstance(result, GeneratedBatch):
            HeldImages.held.append(result.pixels())
            result = result.stored(HeldImages(len(HeldImages.held) - 1))
        return pickle.dumps(result, protocol=5)

    def _counted(self, data: bytes) -> bytes:
        self.num_bytes += len(data)
        return data


def digits(*, completions: list[str], **_: Any) -> list[float]:
    """A reward that takes no time: the fraction of digits."""
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]


def measured(num_gpus: int, samples_per_gpu: int, image_size: int, num_steps: int) -> dict[str, list[float]]:
    """Makes steps of a run on many GPUs. Returns the CPU seconds and megabytes of the driver in each step.

    Args:
        num_gpus: Number of workers of policy and reference.
        samples_per_gpu: Number of samples of each worker. The number of all samples must be a multiple of 8, the
            size of a group.
        image_size: Height and width of the generated images, in pixels.
        num_steps: Number of steps.
    """
    num_prompts = num_gpus * samples_per_gpu // GROUP
    config = RunConfig(
        actor=ActorConfig(num_nodes=1, num_gpus_per_node=num_gpus),
        rollout=RolloutConfig(batch_size=num_prompts, n_samples_per_prompt=GROUP),
        reward=RewardConfig(terms=(RewardTermConfig(name=f"{__file__}:digits"),)),
        train=TrainConfig(num_steps=num_steps, num_inner_updates=4, logprob_mismatch_steps=0),
    )
    prompts = [Prompt(id=f"p.jsonl:{i}", text=f"a drawing of {i}", task="r2i", label=str(i)) for i in range(2048)]
    worker = Worker(image_size)
    groups = [SimulatedGroup([worker] * num_gpus) for _ in range(2)]
    found: dict[str, list[float]] = {"seconds": [], "megabytes": []}
    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = UniGRPOTrainer(
            config, policy=groups[0], reference=groups[1], reward=LocalRewards(config.reward), prompts=prompts,
            eval_prompts=[], checkpoints=CheckpointStore(Path(folder), max_num=1),
        )  # fmt: skip
        output: Any = Nowhere()
        for step in range(num_steps):
            HeldImages.held.clear()
            for group in groups:
                group.num_bytes, group.worker_seconds = 0, 0.0
            began = time.process_time()
            trainer.train_step(step, output)
            own = time.process_time() - began - sum(group.worker_seconds for group in groups)
            found["seconds"].append(own)
            found["megabytes"].append(sum(group.num_bytes for group in groups) / 1e6)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=64, help="Number of workers of the policy.")
    parser.add_argument("--samples_per_gpu", type=int, default=48, help="Number of samples of each worker in a step.")
    parser.add_argument("--image_size", type=int, default=64, help="Height and width of the images, in pixels.")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(flags.gpus, flags.samples_per_gpu, flags.image_size, NUM_STEPS)
    seconds, megabytes = (statistics.median(found[name][WARM_UP:]) for name in ("seconds", "megabytes"))
    what = f"the driver in a step of {flags.gpus * flags.samples_per_gpu} samples on {flags.gpus} simulated GPUs"
    rows = [extra_row(f"{what}, {megabytes:.0f} MB", 0.0, seconds, "s", MOST_SECONDS)]
    write("driver", rows, settings=vars(flags), steps=found)


if __name__ == "__main__":
    main()
