"""Relative paths of a run, made absolute from where the user stood, since a job and its workers stand elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unigrpo.config import RunConfig

SUBMIT_FOLDER = "UNIGRPO_SUBMIT_DIR"
"""Environment variable by which a submit script tells where it was called."""


class UserPaths:
    """Paths as the user meant them."""

    def __init__(self) -> None:
        told = Path(os.environ.get(SUBMIT_FOLDER, ""))
        self.base = told if told.is_dir() else Path.cwd()

    def resolve_input(self, name: str) -> str:
        """A file or folder, also ``folder:configuration``, by its absolute path; others, as Hub names, as they are."""
        path, colon, configuration = name.rpartition(":")
        for found, rest in ((name, ""), (path, colon + configuration)):
            if found and (self.base / found).exists():
                return str((self.base / found).resolve()) + rest
        return name

    def resolve_inputs(self, names: str) -> str:
        """Several, joined by commas."""
        return ",".join(self.resolve_input(name.strip()) for name in names.split(","))

    def resolve_function(self, spec: str) -> str:
        """The file of ``path.py:function``."""
        path, colon, function = spec.rpartition(":")
        return self.resolve_input(path) + colon + function if path.endswith(".py") else spec

    def resolve_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a reward; a text with a slash may be a path."""
        return {k: self.resolve_input(v) if isinstance(v, str) and "/" in v else v for k, v in options.items()}

    def resolve_output(self, name: str) -> str:
        """A path to write to, which need not exist yet; empty stays empty."""
        return str((self.base / name).resolve()) if name else ""


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with every path that exists below the user's folder made absolute; other names stay as they are."""
    user = UserPaths()
    terms = tuple(
        replace(term, name=user.resolve_function(term.name), options=user.resolve_options(term.options))
        for term in config.reward.terms
    )
    return replace(
        config,
        run_dir=user.resolve_output(config.run_dir),
        data=replace(config.data, prompt_dataset=user.resolve_inputs(config.data.prompt_dataset)),
        eval=replace(config.eval, dataset=user.resolve_inputs(config.eval.dataset)),
        actor=replace(config.actor, model_name_or_path=user.resolve_input(config.actor.model_name_or_path)),
        image=replace(config.image, tokenizer=user.resolve_input(config.image.tokenizer)),
        reward=replace(config.reward, terms=terms),
        ckpt=replace(config.ckpt, path=user.resolve_output(config.ckpt.path)),
    )
