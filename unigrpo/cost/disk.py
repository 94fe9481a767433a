"""Estimate of the disk space that a run needs for its checkpoints and its policy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from unigrpo.config import BaseRunConfig
from unigrpo.cost.memory import OPTIMIZER_BYTES, TYPE_BYTES, ModelSize


@dataclass(frozen=True, kw_only=True)
class DiskPlan:
    """Disk space in units of 1e9 bytes."""

    checkpoint_gb: float
    """Size of one checkpoint: the weights in the type of the forward pass, and the master weights and both moments of
    the trained ones."""
    num_checkpoints: int
    """Largest number of checkpoints at one time: the latest, the best, and the one that is being written."""
    policy_gb: float
    """Size of the exported policy. If the run exports it again, both the old and the new one count."""

    @property
    def peak_gb(self) -> float:
        """The largest disk space that the run needs at one time."""
        return self.checkpoint_gb * self.num_checkpoints + self.policy_gb


def disk_plan(config: BaseRunConfig, model: ModelSize) -> DiskPlan:
    """Returns the disk space of a run.

    Args:
        config: Config of the run.
        model: Size of the model, whose parameters include LoRA adapters.
    """
    weight = TYPE_BYTES[config.ds.param_dtype]
    checkpoint = weight * model.num_parameters + OPTIMIZER_BYTES * model.num_trainable
    keeps_best = bool(config.ckpt.best_metric_key)
    merged = model.num_parameters - (model.num_trainable if config.ds.lora.rank else 0)
    return DiskPlan(
        checkpoint_gb=checkpoint / 1e9,
        num_checkpoints=config.ckpt.max_num + keeps_best + 1,
        policy_gb=weight * merged / 1e9 * (2 if config.ckpt.export_steps else 1),
    )


def free_gb(path: str | Path) -> float:
    """Returns the free space of the disk on which a path lies or will lie, in units of 1e9 bytes."""
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9
