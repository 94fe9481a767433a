"""The machine of a run in words, for the head of its report."""

from __future__ import annotations

import os
import platform

import torch


def describe_machine() -> str:
    """Returns the GPUs of this machine, or its CPU cores if it has none: ``8 x NVIDIA H100``, ``2 CPU cores``."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{len(os.sched_getaffinity(0))} CPU cores ({platform.machine()})"
