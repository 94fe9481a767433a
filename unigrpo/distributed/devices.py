"""Checks that a process can use the GPU that Ray gave it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import ray

from unigrpo import ConfigError

DEVICE_FILES = "/dev"
"""Folder in which the NVIDIA driver has a file for each GPU: ``nvidia0``, ``nvidia1``, ..."""
DRIVER_VERSION = Path("/proc/driver/nvidia/version")


def check_gpu() -> None:
    """Raises an error if Ray gave this process a GPU that PyTorch does not find.

    PyTorch reports no error if the driver is too old for its CUDA or if its CPU build is installed, and the model
    would train on the CPU. ``UNIGRPO_DEVICE=cpu`` in the environment of Ray allows this. If a cluster only declares
    GPUs, as in tests, there is no device file and no error.

    Raises:
        ValueError: Ray gave this process a GPU, and PyTorch finds none.
    """
    if os.environ.get("UNIGRPO_DEVICE") == "cpu" or not ray.get_gpu_ids() or not _has_device_file():
        return
    import torch  # noqa: PLC0415  # seconds, which rewards without a GPU need not wait for

    if torch.cuda.is_available():
        return
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs only"
    raise ConfigError(
        f"Ray gave this process a GPU, and torch {torch.__version__}, built for {built_for}, finds none; the NVIDIA "
        f"driver is {_driver_version()}. CUDA 13 needs driver 580 or later. bash launch/preflight_gpu.sh on this node "
        "gives details; to train on CPUs, start Ray with UNIGRPO_DEVICE=cpu"
    )


def _has_device_file() -> bool:
    return any(re.fullmatch(r"nvidia\d+", name) for name in os.listdir(DEVICE_FILES))


def _driver_version() -> str:
    try:
        found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d[\d.]*)", DRIVER_VERSION.read_text())
    except OSError:
        found = None
    return found.group(1) if found else "of unknown version"
