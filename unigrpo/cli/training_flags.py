"""Flags that the training commands share, and the config that a command line gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from jsonargparse import ArgumentParser

from unigrpo import ConfigError
from unigrpo.cli.paths import with_absolute_paths
from unigrpo.config import BaseRunConfig
from unigrpo.config.parsing import config_from_args, parse
from unigrpo.cost.hardware import KINDS
from unigrpo.runs.tracking import check_tracking

Config = TypeVar("Config", bound=BaseRunConfig)


def parse_run(parser: ArgumentParser, arguments: Sequence[str], kind: type[Config]) -> tuple[Any, Config]:
    """Returns the flags and the config of a run, whose paths are absolute and whose experiment tracking can work.

    Raises:
        ConfigError: Something is wrong, or no config file is named: the defaults alone describe no useful run.
    """
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the config and the inputs, print the memory and time that the run needs, and exit",
    )
    parser.add_argument(
        "--check_settings",
        action="store_true",
        help="check only flags, config file and experiment tracking, and exit",
    )
    parser.add_argument(
        "--gpu",
        default="auto",
        choices=["auto", *KINDS],
        help="GPU for which a dry run plans; auto is the GPU of this machine, or an H100 if there is none",
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="fraction of the GPU's peak arithmetic that a dry run assumes, 0 to 1"
    )
    parsed = parse(parser, arguments, kind)
    if not parsed.config:
        raise ConfigError("no config; name a YAML file, such as --config launch/configs/tiny/unigrpo.yaml")
    config = with_absolute_paths(config_from_args(parsed, kind))
    check_tracking(config.logger.wandb_project)
    return parsed, config
