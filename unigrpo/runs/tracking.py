"""Checks before a run starts that experiment tracking can work."""

from __future__ import annotations

import importlib.util
import os

from unigrpo import ConfigError


def check_tracking(wandb_project: str) -> None:
    """Checks the requirements of sending metrics to Weights & Biases.

    Args:
        wandb_project: The project, as ``logger.wandb_project`` names it; empty needs nothing.

    Raises:
        ValueError: The package or the key is missing.
    """
    if not wandb_project:
        return
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("logger.wandb_project is set, but wandb is not installed: pip install wandb")
    if not os.environ.get("WANDB_API_KEY") and os.environ.get("WANDB_MODE") != "offline":
        raise ConfigError("logger.wandb_project is set, but WANDB_API_KEY is not; set it, or WANDB_MODE=offline")
