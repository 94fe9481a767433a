"""The Ray actor of a reward, called here as a plain object."""

from __future__ import annotations

import resource
import sys

import pytest

from rewards.runtime import memory
from rewards.runtime.host import RewardSpec
from unigrpo.distributed.reward_actor import RewardActor


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
def test_an_actor_limits_its_memory_before_it_loads_the_reward(monkeypatch, tmp_path):
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    monkeypatch.setattr(memory, "free_memory", lambda: 10**12)
    (tmp_path / "mine.py").write_text("raise OSError")
    with pytest.raises(ValueError, match=r"mine\.py does not import: OSError"):
        RewardActor(RewardSpec(name=f"{tmp_path}/mine.py:f", options={})).load()
    ((most, hard),) = limits
    assert 0.9e12 < most < 1e12
    assert hard == resource.RLIM_INFINITY
