"""Flags that the training commands share."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser

from unigrpo import ConfigError
from unigrpo.cost.hardware import KINDS


def add_plan_arguments(parser: ArgumentParser) -> None:
    """Adds the flags of a dry run."""
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="check the config and the inputs, print the memory and time that the run needs, and stop",
    )
    parser.add_argument(
        "--check_settings",
        action="store_true",
        help="check flags, config file and experiment tracking alone, in a second, and stop",
    )
    parser.add_argument(
        "--gpu",
        default="auto",
        choices=["auto", *KINDS],
        help="dry_run: GPU to plan for; auto is that of this machine",
    )
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="dry_run: fraction of the GPU's arithmetic that is reached, 0 to 1"
    )


def require_config_file(parsed: Any) -> None:
    """Raises ConfigError if a command line names no config file, because the defaults alone describe no useful run."""
    if not parsed.config:
        raise ConfigError("no config; name a YAML file, such as --config launch/configs/tiny/unigrpo.yaml")
