"""Tests that a GPU that PyTorch cannot use is an error, so that no run trains on the CPU instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import torch

from rewards.runtime.host import RewardSpec
from unigrpo.config import RunConfig
from unigrpo.distributed import actors, devices
from unigrpo.distributed.reward_actor import RewardActor

VERSION = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 2023\nGCC version: 12.2\n"
OPEN_VERSION = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulates a node with an old driver and two GPUs, one of which Ray has assigned to this process."""
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    (tmp_path / "version").write_text(VERSION)
    monkeypatch.setattr(devices, "DEVICE_FILES", str(tmp_path))
    monkeypatch.setattr(devices, "DRIVER_VERSION", tmp_path / "version")
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ["0"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.delenv("UNIGRPO_DEVICE", raising=False)
    return tmp_path


@pytest.mark.parametrize(("text", "version"), [(VERSION, "535.104.05"), (OPEN_VERSION, "580.65.06")])
def test_a_gpu_that_torch_does_not_find_is_an_error_with_both_versions(node, text, version):
    (node / "version").write_text(text)
    with pytest.raises(ValueError, match=rf"2\.13\.0\+cu130, built for CUDA 13\.0, finds none.* is {version}\. "):
        devices.check_gpu()


def test_the_cpu_build_of_torch_is_named(node, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    (node / "version").unlink()
    with pytest.raises(ValueError, match=r"built for CPUs only, finds none; .* driver is of unknown version\."):
        devices.check_gpu()


@pytest.mark.parametrize("reason", ["torch finds it", "no GPU was given", "GPUs are declared only", "CPUs on purpose"])
def test_cases_without_an_error(node, monkeypatch, reason):
    if reason == "torch finds it":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    elif reason == "no GPU was given":
        monkeypatch.setattr(ray, "get_gpu_ids", list)
    elif reason == "GPUs are declared only":
        for name in ("nvidia0", "nvidia1"):
            (node / name).unlink()
    else:
        monkeypatch.setenv("UNIGRPO_DEVICE", "cpu")
    devices.check_gpu()


@pytest.mark.parametrize(
    "kind", [actors.PolicyActor, actors.ReferenceActor, actors.RolloutActor, actors.DenoisingActor]
)
def test_every_worker_with_a_model_checks_its_gpu_first(node, kind):
    worker = object.__new__(kind)  # like an object of Ray, without a process group
    with pytest.raises(ValueError, match="Ray gave this process a GPU"):
        worker.initialize(RunConfig())


def test_a_reward_checks_its_gpu_first(node):
    with pytest.raises(ValueError, match="Ray gave this process a GPU"):
        RewardActor(RewardSpec(name="jpeg_size", options={})).load()
