"""Puts placeholders in the place of missing packages that the model's modules import but a benchmark does not use.

The import of this module does this.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = ("jaxtyping", "PIL", "PIL.Image", "PIL.ImageOps", "peft")


class _Anything:
    """A name of a missing package, which annotations may use, and which raises an error when it is called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, _: Any) -> Any:
        return Any

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError(f"{self._name} is called, but its package is not installed")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(f"{self.__name__}.{name}")


def stand_in() -> list[str]:
    """Puts placeholders in the place of missing packages and returns the names of these packages.

    transformers is imported first, because its import looks up which packages are installed.
    """
    import transformers  # noqa: F401, PLC0415  # before the placeholders exist

    absent: list[str] = []
    for name in NAMES:
        package = name.split(".", maxsplit=1)[0]
        if package not in absent and importlib.util.find_spec(package) is not None:
            continue
        module = _StandIn(name)
        module.__spec__ = ModuleSpec(name, loader=None)
        module.__path__ = []  # type: ignore[attr-defined]
        sys.modules[name] = module
        absent.append(name)
    return [name for name in absent if "." not in name]


ABSENT = stand_in()
"""Names of the packages that are not installed."""
