"""Relative paths of a run, made absolute from where the user stood, since a job and its workers stand elsewhere."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from unigrpo.config import RunConfig

SUBMIT_FOLDER = "UNIGRPO_SUBMIT_DIR"
"""Environment variable by which a submit script tells where it was called."""


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with every path that exists below the user's folder made absolute; other names stay as they are."""
    told = Path(os.environ.get(SUBMIT_FOLDER, ""))
    base = told if told.is_dir() else Path.cwd()

    def found(name: str) -> str:
        """A file or folder by its absolute path; what is none, such as a Hub name, as it is."""
        return str((base / name).resolve()) if name and (base / name).exists() else name

    def found_all(names: str) -> str:
        return ",".join(found(name.strip()) for name in names.split(","))

    def found_function(spec: str) -> str:
        path, colon, function = spec.rpartition(":")
        return found(path) + colon + function if path.endswith(".py") else spec

    terms = tuple(replace(term, name=found_function(term.name)) for term in config.reward.terms)
    return replace(
        config,
        run_dir=str((base / config.run_dir).resolve()),
        data=replace(config.data, prompt_dataset=found_all(config.data.prompt_dataset)),
        eval=replace(config.eval, dataset=found_all(config.eval.dataset)),
        actor=replace(config.actor, model_name_or_path=found(config.actor.model_name_or_path)),
        reward=replace(config.reward, terms=terms),
        ckpt=replace(config.ckpt, path=str((base / config.ckpt.path).resolve()) if config.ckpt.path else ""),
    )
