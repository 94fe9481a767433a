"""Tests the setting for how long a rank waits for the others."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from openrlhf.utils.deepspeed import DeepspeedStrategy

from unigrpo.config import RunConfig
from unigrpo.distributed import strategy as strategies
from unigrpo.distributed.strategy import make_strategy


class JoinedError(Exception):
    """Raised where a process would wait for the others."""


@pytest.mark.parametrize(("minutes", "expected"), [(None, 15.0), (2.5, 2.5)])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_ranks_wait_as_long_as_the_setting_says(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, minutes: float | None, expected: float
) -> None:
    waits: list[timedelta] = []

    def join(*_: Any, timeout: timedelta, **__: Any) -> None:
        waits.append(timeout)
        raise JoinedError

    config = RunConfig()
    if minutes is not None:
        config = replace(config, train=replace(config.train, collective_timeout_minutes=minutes))
    monkeypatch.setattr(strategies.torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(strategies.deepspeed, "init_distributed", join)
    monkeypatch.setattr(DeepspeedStrategy, "setup_distributed", lambda _, timeout: join(timeout=timeout))
    with pytest.raises(JoinedError):
        make_strategy(config).setup_distributed()
    assert waits == [timedelta(minutes=expected)]
