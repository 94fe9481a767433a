"""``config.yaml`` of a run: every setting with commit and versions, without secrets, and compared on resuming."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import yaml

from unigrpo import ConfigError
from unigrpo.config.typed_files import checked
from unigrpo.config.yaml_text import load_yaml
from unigrpo.runs.secrets import HIDDEN, without_secrets

CONFIG_FILE = "config.yaml"
PACKAGES = ("unigrpo", "torch", "transformers", "deepspeed", "ray", "openrlhf")
ABSENT = "(absent)"
"""Placeholder for the value of a setting that one of two versions of this program does not have."""
NOT_COMPARED = ("run_dir", "ckpt.load_enable", "ckpt.path")
"""Settings in which a resumed run may differ from its beginning without any effect on the training."""


@runtime_checkable
class DictConfig(Protocol):
    """A config that can be written."""

    def to_dict(self) -> dict[str, Any]: ...


def config_text(config: DictConfig) -> str:
    """Returns the resolved config as YAML for ``--config``, with commit and versions as comments at the top."""
    lines = [f"# commit: {commit()}", f"# python: {sys.version.split()[0]}"]
    lines += [f"# {name}: {_version(name)}" for name in PACKAGES]
    return "\n".join(lines) + "\n" + yaml.safe_dump(plain_config(config), sort_keys=False)


def changed_settings(config: DictConfig, folder: Path) -> dict[str, tuple[Any, Any]]:
    """Compares a config with the one that a directory holds.

    Settings that are new in this version do not change a run: a setting that the file lacks is compared only if it
    differs from the default. Old names of settings are read as the new ones.

    Returns:
        The values there and here of each setting that differs, by its dotted name; empty if the directory holds none.

    Raises:
        ValueError: The file there cannot be read.
    """
    if not (folder / CONFIG_FILE).exists():
        return {}
    old = read_settings(folder)
    before, now = flat_settings(old), flat_settings(_as_json(_without_new_defaults(config, old)))
    names = [name for name in {**before, **now} if name not in NOT_COMPARED]
    return {
        name: (before.get(name, ABSENT), now.get(name, ABSENT))
        for name in names
        if before.get(name, ABSENT) != now.get(name, ABSENT)
    }


def read_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings of a run directory by their sections, with the names of this version.

    Raises:
        ConfigError: There is no config, or it cannot be read.
    """
    path = folder / CONFIG_FILE
    try:
        return checked(load_yaml(path.read_text("utf-8"), yaml.safe_load), dict[str, Any])
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{path} cannot be read ({reason}); restore the file, or delete it to continue without it"
        ) from error


def _without_new_defaults(now: Any, old: Any) -> Any:
    """Returns a config or a part of it as plain values, without the defaults of settings that the old one lacks."""
    if dataclasses.is_dataclass(now) and not isinstance(now, type):
        known = old if isinstance(old, dict) else {}
        return {
            field.name: _without_new_defaults(value, known.get(field.name))
            for field in dataclasses.fields(now)
            if (value := getattr(now, field.name)) != _default(field) or field.name in known
        }
    if isinstance(now, (list, tuple)):
        parts = old if isinstance(old, list) and len(old) == len(now) else [None] * len(now)
        return [_without_new_defaults(value, part) for value, part in zip(now, parts, strict=True)]
    if isinstance(now, dict):
        known = old if isinstance(old, dict) else {}
        return {name: _without_new_defaults(value, known.get(name)) for name, value in now.items()}
    return now


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def check_no_secret_is_missing(config: DictConfig) -> None:
    """Raises ConfigError if a setting has the text that replaces a secret in ``config.yaml``."""
    for name, value in flat_settings(config.to_dict()).items():
        if HIDDEN in str(value):
            raise ConfigError(
                f"{name} contains {HIDDEN!r}, which replaces a secret in config.yaml; give the secret again"
            )


def commit() -> str:
    """Returns the commit of the running code: from the launcher, since a job's directory is no repository, or from
    git."""
    if told := os.environ.get("UNIGRPO_COMMIT"):
        return told
    command = ["git", "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10
        )
    except OSError:  # no git here
        return "unknown"
    return answer.stdout.strip() or "unknown"


def plain_config(config: DictConfig) -> dict[str, Any]:
    """Returns the settings of a config without secrets, in types of JSON."""
    return _as_json(config.to_dict())


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(without_secrets(values)))


def flat_settings(value: Any, name: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by their dotted names."""
    if not isinstance(value, dict) or not value:
        return {name: value}
    return {
        inner: leaf
        for key, child in value.items()
        for inner, leaf in flat_settings(child, f"{name}.{key}" if name else str(key)).items()
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
