"""The one reader of YAML, for configs and other files: it bounds their size and replaces old names of settings."""

# pyright: standard
# YAML has values of unknown type.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import get_loader

from unigrpo.config.old_names import renamed_config

MAX_VALUES = 100_000
"""Largest number of values in a YAML text. A reference to an anchor counts as all the values that it stands for, so
that a short text cannot fill the memory."""
_load = get_loader("yaml")


def load_yaml(text: str, load: Callable[[str], Any] = _load) -> Any:
    """Returns the content of a YAML text, with the old names of settings replaced.

    Args:
        text: The text.
        load: Reads it. What a program has written is read by ``yaml.safe_load``, which takes `1e5` for a text, as the
            writer does; what a user has written by the loader of jsonargparse, which takes it for a number.

    Raises:
        YAMLError: The text is no YAML, or its content is nested too deeply, contains itself or has too many values.
    """
    try:
        content = load(text)
        number = _number_of_values(content, {})
    except RecursionError as error:
        raise yaml.YAMLError("the YAML text is nested too deeply, or an anchor in it contains itself") from error
    if number > MAX_VALUES:
        raise yaml.YAMLError(
            f"the YAML text has {number} values after its anchors are expanded, more than the {MAX_VALUES} that a "
            "config may have; use fewer anchors"
        )
    return renamed_config(content)


def _number_of_values(content: Any, known: dict[int, int]) -> int:
    """Counts the values of nested lists and dictionaries, with those that stand in several places once for each place.

    Args:
        content: The lists and dictionaries. A RecursionError says that they are too deep or contain themselves.
        known: The counts of lists and dictionaries that have been counted, by their ids. It gets those of this one.
    """
    if not isinstance(content, (list, dict)):
        return 1
    if id(content) not in known:
        children = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_number_of_values(child, known) for child in children)
    return known[id(content)]
