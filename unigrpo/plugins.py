"""The name in the config is the file name: a name -> its module, with the right names in the error."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def available(package: str, *, hidden: tuple[str, ...] = ("base",)) -> list[str]:
    """Names that :func:`load` accepts for a package, sorted."""
    found = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(found.__path__) if m.name not in hidden)


def load(package: str, name: str, *, setting: str) -> ModuleType:
    """Imports ``package.name``.

    Args:
        package: Dotted package whose files are the choices.
        name: The choice, as the user wrote it.
        setting: Dotted config name, for the error.

    Raises:
        ValueError: No such file; the message lists the right names.
    """
    names = available(package)
    if name not in names:
        raise ValueError(f"{setting}: no {name!r}; choose one of {names}")
    return importlib.import_module(f"{package}.{name}")
