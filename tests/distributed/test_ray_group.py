"""Tests groups of Ray actors: order and division of items, and errors of workers that raise, die or hang."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import ray
import torch
from builders import rollout_without_tokens
from ray import cloudpickle

from unigrpo.batches import GeneratedBatch, TrajectoryBatch
from unigrpo.config import RunConfig
from unigrpo.distributed.image_store import RayStore
from unigrpo.distributed.ray_group import RayGroup, WorkerDied, WorkerFailed
from unigrpo.distributed.worker_actor import WorkerActor
from unigrpo.image_store import ArrayStore, StoredImage
from unigrpo.workers.group import LocalGroup
from unigrpo.workers.reward import reward_batch

pytestmark = pytest.mark.ray
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file


class Unpicklable(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class Worker:
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def double(self, items: Sequence[int], offset: int = 0) -> list[int]:
        return [2 * item + offset for item in items]

    def who(self, items: Sequence[int]) -> list[int]:
        return [self.rank for _ in items]

    def name(self) -> int:
        return self.rank

    def paint(self, batch: TrajectoryBatch) -> GeneratedBatch:
        """Changes the log-probabilities in place, and returns images whose pixels are the number of their sample."""
        batch.commit_log_probs.values.add_(1.0)
        pixels = [np.full((4, 4, 3), number, dtype=np.uint8) for number in batch.sample_ids.tolist()]
        store = ArrayStore(pixels)
        return GeneratedBatch(
            trajectories=batch,
            completions=("",) * len(batch),
            raw_completions=("",) * len(batch),
            is_full_length=torch.zeros(len(batch), dtype=torch.bool),
            images=tuple(StoredImage(store, place) for place in range(len(batch))),
        )

    def refuse_if(self, rank: int) -> None:
        if self.rank == rank:
            raise KeyError("row 7")

    def refuse_with_a_lock(self) -> None:
        raise Unpicklable("cannot travel")

    def die_if(self, rank: int) -> None:
        if self.rank == rank:
            os._exit(9)
        time.sleep(0.2)
        raise ConnectionError("peer closed")  # the error of a rank if another one dies in a collective call


class TestedActor(WorkerActor):
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def initialize(self, config: Any) -> None:
        self.worker = Worker(self.rank)


@pytest.fixture(scope="module")
def group(cluster: None) -> Iterator[RayGroup]:
    started = RayGroup("reward", [ray.remote(num_cpus=0)(TestedActor).remote(rank) for rank in range(2)])
    started.initialize(RunConfig())
    yield started
    started.close()


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_results_come_in_the_order_of_the_items(group: RayGroup, count: int) -> None:
    local = LocalGroup(Worker(0))
    assert group.map(Worker.double, range(count), offset=1) == local.map(Worker.double, range(count), offset=1)


def test_parts_are_contiguous_and_of_equal_size(group: RayGroup) -> None:
    assert group.map(Worker.who, range(7)) == [0, 0, 0, 0, 1, 1, 1]


def test_every_worker_answers_a_call_in_order(group: RayGroup) -> None:
    assert group.call(Worker.name) == [0, 1]


def test_an_exception_names_the_worker_the_method_and_the_message(group: RayGroup) -> None:
    with pytest.raises(WorkerFailed, match=r"^reward worker 1 failed in refuse_if: KeyError: 'row 7'$"):
        group.call(Worker.refuse_if, 1)


def test_an_exception_that_cannot_be_pickled_still_says_what_it_was(group: RayGroup) -> None:
    with pytest.raises(
        WorkerFailed, match=r"^reward workers 0, 1 failed in refuse_with_a_lock: .*Unpicklable: cannot travel$"
    ):
        group.call(Worker.refuse_with_a_lock)


def test_the_group_still_works_after_an_exception(group: RayGroup) -> None:
    with pytest.raises(WorkerFailed):
        group.call(Worker.refuse_if, 0)
    assert group.call(Worker.name) == [0, 1]


def test_batches_are_sent_as_columns_and_images_stay_in_their_process(group: RayGroup) -> None:
    samples = [
        dataclasses.replace(
            rollout_without_tokens(number, ""),
            token_ids=torch.arange(number),
            response_mask=torch.ones(number, dtype=torch.bool),
            scored_mask=torch.ones(number, dtype=torch.bool),
            image_mask=torch.zeros(number, dtype=torch.bool),
            commit_step=torch.arange(number),
            commit_log_probs=torch.full((number,), float(number)),
        )
        for number in range(5)
    ]
    sent = TrajectoryBatch.of(samples)
    made = group.map(Worker.paint, sent)
    assert [row.tolist() for row in made.trajectories.commit_log_probs.rows()] == [[n + 1.0] * n for n in range(5)]
    made.trajectories.commit_log_probs.values.zero_()  # the memory is not Ray's read-only memory
    stores = {id(image.store): image.store for image in made.images if image is not None}
    assert len(stores) == 2  # a store for each worker
    assert all(isinstance(store, RayStore) for store in stores.values())
    rollouts = made.rollouts([rollout.prompt for rollout in samples])
    seen = reward_batch(rollouts).part(1, 4)
    assert [np.asarray(item.image).max() for item in seen] == [1, 2, 3]


def test_a_death_is_reported_even_if_a_peer_fails_first(group: RayGroup) -> None:
    """This must be the last test of this group, because it ends a worker."""
    with pytest.raises(WorkerDied, match=r"reward worker 1 died in die_if.*The same command resumes"):
        group.call(Worker.die_if, 1)
    with pytest.raises(WorkerDied, match="reward worker 1 died"):
        group.call(Worker.name)
