"""Tests the Ray actor of a reward as a plain object."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from rewards.runtime import memory
from rewards.runtime.host import RewardSpec
from unigrpo.distributed.reward_actor import RewardActor


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
def test_an_actor_limits_its_memory_before_it_loads_the_reward(monkeypatch, tmp_path):
    limits: list[tuple[int, int]] = []
    monkeypatch.setenv("UNIGRPO_DEVICE", "cpu")  # otherwise the actor asks Ray for its GPUs, which starts a cluster
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    monkeypatch.setattr(memory, "free_memory", lambda: 10**12)
    (tmp_path / "mine.py").write_text("raise OSError")
    with pytest.raises(ValueError, match=r"mine\.py does not import: OSError"):
        RewardActor(RewardSpec(name=f"{tmp_path}/mine.py:f", options={})).load()
    ((most, hard),) = limits
    assert 0.9e12 < most < 1e12
    assert hard == resource.RLIM_INFINITY


def test_the_process_of_a_reward_without_a_model_loads_no_torch():
    """The import takes seconds and hundreds of megabytes in each of these processes."""
    modules = "unigrpo.distributed.reward_actor, rewards.jpeg_size, rewards.ocr"
    script = f"import sys, {modules}; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown == "False\n"
