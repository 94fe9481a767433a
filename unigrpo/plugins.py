"""Loads a module by its file name, which is its name in a config."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeVar

from unigrpo import ConfigError

Plugin = TypeVar("Plugin")


def available(package: str) -> list[str]:
    """Returns the names that :func:`load` accepts for a package, sorted."""
    found = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(found.__path__) if m.name != "base")


def load(package: str, name: str, *, setting: str) -> ModuleType:
    """Imports ``package.name``.

    Args:
        package: Dotted package whose files are the choices.
        name: The choice, as the user wrote it.
        setting: Dotted config name, for the error.

    Raises:
        ConfigError: There is no such file; the message lists the right names.
    """
    names = available(package)
    if name not in names:
        raise ConfigError(f"{setting}: no {name!r}; choose one of {names}")
    return importlib.import_module(f"{package}.{name}")


def build(package: str, name: str, kind: type[Plugin], options: Mapping[str, Any], *, setting: str) -> Plugin:
    """Returns an object of the class in ``package.name`` that is derived from ``kind``.

    Args:
        package: Dotted package whose files are the choices.
        name: The choice, as the user wrote it.
        kind: Base class.
        options: Keyword arguments of the class.
        setting: Dotted config name for errors, which name ``setting.name`` and ``setting.options``.

    Raises:
        ConfigError: There is no such file, or an option is unknown or wrong; the message lists the right ones.
    """
    module = load(package, name, setting=f"{setting}.name")
    found = [
        member
        for member in vars(module).values()
        if inspect.isclass(member) and issubclass(member, kind) and member.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{module.__name__} must define one {kind.__name__}; it defines {found}")
    allowed = list(inspect.signature(found[0]).parameters)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ConfigError(f"{setting}.options: {name!r} has no {unknown}; its options are {allowed}")
    return found[0](**options)
