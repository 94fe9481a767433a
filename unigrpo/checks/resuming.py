"""Checks whether a run may resume from the checkpoint that it finds."""

from __future__ import annotations

import logging
from pathlib import Path

from unigrpo import ConfigError
from unigrpo.config import RunConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.runs.checkpoints import Checkpoint, CheckpointStore
from unigrpo.runs.config_file import ABSENT, changed_settings
from unigrpo.runs.directory import holds_run

logger = logging.getLogger(__name__)

FIXED_SETTINGS = ("actor.model_name_or_path", "ds.lora.", "ds.zero_stage")
"""Settings that must match the files of a checkpoint: the model, LoRA, and the sharding of the states."""
FREE_SETTINGS = (
    "train.num_steps",
    "train.collective_timeout_minutes",
    "actor.num_nodes",
    "actor.num_gpus_per_node",
    "ckpt.",
    "logger.",
)
"""Settings that may change when a run resumes with `auto`: they do not affect a step, except for the rounding of sums
over ranks."""


def check_checkpoint(config: RunConfig | StageConfig, checkpoints: CheckpointStore) -> None:
    """Checks the checkpoint from which a run would resume, if it is to resume.

    Raises:
        ValueError: No checkpoint is complete, it has more steps than the run, its files do not fit the settings, or it
            belongs to another run and resuming was not requested.
    """
    found = None if config.ckpt.load_enable is False else checkpoints.latest()
    if config.ckpt.load_enable == "auto":
        _check_same_run(config, found)
    if found is None:
        if holds_run(config):
            logger.warning("run_dir %s has a run without a checkpoint, which starts again at step 0", config.run_dir)
        return
    ranks = found.state.get("num_policy_ranks", 1)
    if ranks != config.actor.num_ranks:
        logger.info(
            "%s was written by %d policy ranks and is loaded on %d", found.folder, ranks, config.actor.num_ranks
        )
    if found.step > config.train.num_steps:
        raise ConfigError(
            f"{found.folder}: {found.step} steps are finished, but train.num_steps is {config.train.num_steps}; set "
            f"{found.step} or more, or start a new run in another --run_dir"
        )
    _check_changed_settings(config)
    logger.info("resuming from %s, %d steps finished", found.folder, found.step)


def _check_same_run(config: RunConfig | StageConfig, found: Checkpoint | None) -> None:
    """Raises ValueError if the run directory or the checkpoint belongs to another run than this one."""
    if found is not None and not holds_run(config):
        raise ConfigError(
            f"{found.folder} exists, but run_dir {config.run_dir} has no run; give the run_dir of the run that "
            "wrote it, or another --ckpt.path, or resume from it with --ckpt.load_enable true"
        )
    if not holds_run(config):
        return
    changed = changed_settings(config, Path(config.run_dir))
    shown = [
        f"{name}: {before} -> {now}"
        for name, (before, now) in changed.items()
        if not name.startswith(FREE_SETTINGS) and now != ABSENT
    ]
    if shown:
        raise ConfigError(
            f"run_dir {config.run_dir} holds a run with other settings: {'; '.join(shown)}. Choose another --run_dir "
            "for a new run, or resume with the changed settings: --ckpt.load_enable true"
        )


def _check_changed_settings(config: RunConfig | StageConfig) -> None:
    """Names the settings in which a resumed run differs from its ``config.yaml``.

    Raises:
        ValueError: One of them does not fit the files of a checkpoint.
    """
    changed = changed_settings(config, Path(config.run_dir))
    shown = {name: f"{name}: {before} -> {now}" for name, (before, now) in changed.items()}
    fixed = [text for name, text in shown.items() if name.startswith(FIXED_SETTINGS)]
    if fixed:
        raise ConfigError(
            f"the checkpoints of {config.run_dir} do not fit these settings: {'; '.join(fixed)}. Set them as before, "
            "or start a new run in another --run_dir. If only a folder has moved, change it in the config.yaml there"
        )
    for text in shown.values():
        logger.warning("a setting of the resumed run has changed: %s", text)
