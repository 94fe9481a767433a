"""Defaults of flags from the folder of an exported policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from unigrpo import CheckpointError
from unigrpo.config.yaml_text import load_yaml
from unigrpo.models.sampling_defaults import FILE, SamplingDefaults


def set_policy_defaults(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Makes the sampling settings of a policy's run the defaults of a command's flags, as far as it has them.

    Args:
        parser: The parser of ``generate`` or ``demo``.
        arguments: The command line, which names the model and may name a task, also in the file of ``--config``.

    Raises:
        CheckpointError: The policy's ``sampling.json`` cannot be read.
    """
    given = _of_config_file(_value(arguments, "--config"))
    name = _value(arguments, "--model") or given.get("model")
    if not isinstance(name, str) or not name:
        return
    from unigrpo.models.weight_files import local_folder  # noqa: PLC0415  # loads torch, which --help need not

    try:
        folder = local_folder(name, [FILE])
    except CheckpointError:  # whoever loads the model says what is wrong with its name
        return
    found = SamplingDefaults.read(Path(folder))
    if found is None:
        return
    known = {action.dest for action in parser._actions}
    flags = found.flags(_value(arguments, "--task") or str(given.get("task") or ""))
    parser.set_defaults({flag: value for flag, value in flags.items() if flag in known})


def _of_config_file(name: str) -> dict[str, Any]:
    """Returns the settings of a config file; none if it cannot be read, which parsing the flags then reports."""
    try:
        values = load_yaml(Path(name).read_text("utf-8")) if name else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _value(arguments: Sequence[str], flag: str) -> str:
    """Returns the last value of a flag on a command line; empty if it is not there."""
    value = ""
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            value = arguments[place + 1]
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value
