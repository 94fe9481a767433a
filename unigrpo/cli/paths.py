"""Makes relative paths of a config absolute, starting from the folder in which the user called the command.

A job and its workers run in other folders.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from unigrpo import ConfigError
from unigrpo.config.paths import PathKind
from unigrpo.data.files import is_table_name, split_paths

SUBMIT_FOLDER = "UNIGRPO_SUBMIT_DIR"
"""Environment variable with which a submit script passes on the folder in which it was called."""
Config = TypeVar("Config")


class UserPaths:
    """Resolves paths relative to the user's folder."""

    def __init__(self) -> None:
        submitted = Path(os.environ.get(SUBMIT_FOLDER, ""))
        self.base = (submitted if submitted.is_dir() else Path.cwd()).absolute()

    def resolve_input(self, name: str) -> str:
        """Returns the absolute path of a file or folder that exists, also of ``folder:configuration``.

        Other names, such as those of data sets on the Hub, stay as they are.
        """
        path, colon, configuration = name.rpartition(":")
        for found, rest in ((name, ""), (path, colon + configuration)):
            if found and (self.base / found).exists():
                return str((self.base / found).resolve()) + rest
        return name

    def resolve_inputs(self, names: str) -> str:
        """Resolves several inputs that are separated by commas."""
        return ",".join(self.resolve_input(name.strip()) for name in names.split(","))

    def resolve_output(self, name: str) -> str:
        """Returns the absolute form of a path to write to, which need not exist yet; an empty path stays empty."""
        return str((self.base / name).resolve()) if name else ""

    def resolve_file(self, name: str) -> str:
        """Returns the absolute form of a path without following links, since it may hold placeholders."""
        return str(self.base / Path(name).expanduser()) if name else ""

    def resolve_sources(self, patterns: str) -> str:
        """Resolves patterns of files that are separated by commas outside braces; names on the Hub stay."""
        return ",".join(self._source(pattern) for pattern in split_paths(patterns))

    def _source(self, pattern: str) -> str:
        absolute = self.base / Path(pattern).expanduser()
        is_pattern = any(letter in pattern for letter in "*?[{")
        is_file = is_pattern or is_table_name(pattern) or absolute.suffix == ".tar"
        return str(absolute) if is_file else self.resolve_input(pattern)

    def resolve_function(self, name: str) -> str:
        """Resolves the file of ``path.py:function``."""
        path, colon, function = name.rpartition(":")
        return self.resolve_input(path) + colon + function if path.endswith(".py") else name

    def resolve_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Resolves the options of a reward; a text with a slash may be a path."""
        return {k: self.resolve_input(v) if isinstance(v, str) and "/" in v else v for k, v in options.items()}


def with_absolute_paths(config: Config) -> Config:
    """Returns the config with every path made absolute that its type marks as one.

    Args:
        config: A dataclass whose fields use the types of :mod:`unigrpo.config.paths`; nested dataclasses, and those in
            dictionaries, tuples and lists, are resolved as well.
    """
    user = UserPaths()
    resolvers: dict[PathKind, Callable[[Any], Any]] = {
        PathKind.INPUT: user.resolve_input,
        PathKind.INPUTS: user.resolve_inputs,
        PathKind.OUTPUT: user.resolve_output,
        PathKind.FILE: user.resolve_file,
        PathKind.SOURCES: user.resolve_sources,
        PathKind.FUNCTION: user.resolve_function,
        PathKind.OPTIONS: user.resolve_options,
    }
    return _resolved(config, resolvers)


def _resolved(value: Any, resolvers: dict[PathKind, Callable[[Any], Any]]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, resolvers) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_resolved(item, resolvers) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    hints = get_type_hints(type(value), include_extras=True)
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        kind = next((m for m in getattr(hints[field.name], "__metadata__", ()) if isinstance(m, PathKind)), None)
        content = getattr(value, field.name)
        is_list = isinstance(content, (list, tuple))  # prompt files with settings of their own
        try:
            changes[field.name] = resolvers[kind](content) if kind and not is_list else _resolved(content, resolvers)
        except ConfigError:
            raise
        except (ValueError, OSError) as error:  # a null character in it, or a name of thousands of letters
            raise ConfigError(f"{field.name}: {str(content)[:100]!r} can be no path ({str(error)[:60]})") from error
    return dataclasses.replace(value, **changes)
