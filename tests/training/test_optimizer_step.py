"""Tests that the learning-rate schedule of a run gives every optimizer step a rate above 0."""

from __future__ import annotations

import pytest
import torch

from unigrpo.config import ActorConfig
from unigrpo.training.optimizer_step import make_scheduler


def rates(name: str, warmup: float, number: int, **options: bool) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    actor = ActorConfig(lr_scheduler=name, lr_warmup_ratio=warmup, min_lr_ratio=0.1)  # type: ignore[arg-type]
    scheduler = make_scheduler(optimizer, actor, number, **options)
    found = []
    for _ in range(number):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", ["constant_with_warmup", "cosine_with_min_lr", "linear"])
def test_the_warm_up_starts_above_zero_and_changes_no_later_rate(name: str) -> None:
    found, published = rates(name, 0.25, 8), rates(name, 0.25, 8, starts_at_zero=True)
    assert published[:2] == pytest.approx([0, 1 / 2])
    assert found[:2] == pytest.approx([1 / 3, 2 / 3])
    assert found[2:] == published[2:]
    assert found[2] == 1


@pytest.mark.parametrize("name", ["constant_with_warmup", "cosine_with_min_lr", "linear"])
def test_without_a_warm_up_nothing_changes(name: str) -> None:
    assert rates(name, 0.0, 8) == rates(name, 0.0, 8, starts_at_zero=True)
    assert rates(name, 0.0, 8)[0] == 1
