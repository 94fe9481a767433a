"""The device that the model of a reward runs on."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """Returns torch's name of a device; ``auto`` is the GPU that this process sees, else the CPU."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
