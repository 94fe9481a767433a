"""Tests the metrics of the samples of a step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from builders import rollout_without_tokens

from unigrpo.records import Prompt, Rollout
from unigrpo.training.rollout_metrics import rollout_metrics


def made(task: str, number: int, *, is_full_length: bool = False) -> Rollout:
    """Returns a sample with a prompt of one token and a response of two."""
    written = torch.tensor([False, True, True])
    return dataclasses.replace(
        rollout_without_tokens(number, "", Prompt(id="p", text="?", task=task)),
        token_ids=torch.arange(3),
        response_mask=written,
        scored_mask=written,
        image_mask=written & torch.tensor(task == "t2i"),
        commit_step=torch.tensor([-1, 0, 1]),
        commit_log_probs=torch.tensor([0.0, -1.0, -3.0]),
        commit_entropy=None,
        is_full_length=is_full_length,
    )


def test_images_do_not_count_as_texts_of_full_length() -> None:
    texts = [made("text", 0, is_full_length=True), made("text", 1)]
    images = [made("t2i", number) for number in range(2, 6)]
    assert rollout_metrics([*texts, *images], 0)["rollout/full_length"] == pytest.approx(0.5)
    assert rollout_metrics(images, 0)["rollout/full_length"] == 0
