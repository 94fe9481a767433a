"""Tests that held-out prompts are distributed to the workers by task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch

from unigrpo.batches import GeneratedBatch
from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.data.prompt_stream import repeat_prompts
from unigrpo.evaluation.held_out import generate_balanced
from unigrpo.records import Prompt, Rollout, SampleRequest
from unigrpo.workers.group import LocalGroup, WorkerGroup, split_evenly

NOTHING = torch.zeros(0, dtype=torch.bool)


def rollout(request: SampleRequest) -> Rollout:
    return Rollout(
        key=request.key, prompt=request.prompt, policy_version=0, token_ids=NOTHING.long(), response_mask=NOTHING,
        scored_mask=NOTHING,
        completion="", commit_step=NOTHING.long(), commit_log_probs=NOTHING.float(), image_mask=NOTHING,
    )  # fmt: skip


class Four(LocalGroup):
    """A group of four workers that records the prompts of each worker."""

    size = 4

    def map(self, method: Any, items: Sequence[SampleRequest], *args: Any, **kwargs: Any) -> GeneratedBatch:
        self.asked = [Counter(request.prompt.task for request in part) for part in split_evenly(items, self.size)]
        return GeneratedBatch.of([rollout(request) for request in items])


def test_every_worker_gets_as_many_images_and_the_order_stays() -> None:
    tasks = ["text"] * 8 + ["mmu"] * 4 + ["t2i"] * 4
    prompts = [Prompt(id=str(i), text="x", task=cast(Any, task)) for i, task in enumerate(tasks)]
    requests, group = repeat_prompts(prompts, 2, 0), Four(worker=None)
    found = generate_balanced(cast(WorkerGroup, group), requests, 0, (TextSamplingConfig(), ImageSamplingConfig()))
    assert [one.key for one in found] == [request.key for request in requests]
    assert group.asked == [Counter(text=4, mmu=2, t2i=2)] * 4
