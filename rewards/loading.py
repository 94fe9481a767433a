"""Builds a reward from its name in the config."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import rewards
from rewards.base import Reward
from rewards.functions import FunctionReward
from rewards.runtime.errors import describe

HIDDEN = {"base", "functions", "grade", "http_client", "loading", "reply", "try_reward", "yes_no"}
"""Files of this package without a reward."""


def load_reward(spec: str, options: Mapping[str, Any] | None = None, style: str = "auto") -> Reward:
    """Builds a reward.

    Args:
        spec: A file of rewards/ by its name, ``path/to/file.py:function`` or ``package.module:Class``.
        options: Arguments of the reward's constructor, or further keywords of a function.
        style: Calling convention of a function, see :data:`rewards.functions.STYLES`; `auto` infers it.

    Raises:
        ValueError: There is no such reward (the message lists the names), its file cannot be imported, or options or
            signature do not fit.
    """
    options = dict(options or {})
    if ":" not in spec:
        return _built(_class_of(spec), spec, options)
    found = find_callable(spec)
    if _is_reward_class(found):
        return _built(found, spec, options)
    if inspect.isclass(found):
        instance = _built(found, spec, options)
        if not callable(instance):
            raise ValueError(f"reward.terms: {spec!r}: the class has no __call__; it takes a batch and returns a list")
        return FunctionReward(instance, found.__name__, {}, style)
    return FunctionReward(found, spec.rpartition(":")[2], options, style)


def local_options(spec: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a reward of rewards/ with paths in place of names of the Hub (see
    :meth:`rewards.base.Reward.local_options`). Options of other rewards do not change, because code of users runs only
    in its own processes.

    Raises:
        ValueError: There is no such reward, or a name is neither on this machine nor on the Hub.
    """
    return dict(options) if ":" in spec else _class_of(spec).local_options(options)


def reward_names() -> list[str]:
    """Returns the names of the rewards in this package."""
    return sorted(m.name for m in pkgutil.iter_modules(rewards.__path__) if not m.ispkg and m.name not in HIDDEN)


def _class_of(name: str) -> type[Reward]:
    if name.endswith(".py"):
        raise ValueError(
            f"reward.terms: {name!r} names a file; name one of its functions or classes, too: {name}:FUNCTION"
        )
    if name not in reward_names():
        raise ValueError(
            f"reward.terms: no {name!r}; choose one of {reward_names()}, or give path/to/file.py:function or "
            "package.module:Class"
        )
    module = importlib.import_module(f"rewards.{name}")
    (reward,) = (m for m in vars(module).values() if _is_reward_class(m) and m.__module__ == module.__name__)
    return reward


def _is_reward_class(member: object) -> TypeGuard[type[Reward]]:
    return inspect.isclass(member) and issubclass(member, Reward)


def _built(build: Callable[..., Any], spec: str, options: dict[str, Any]) -> Any:
    try:
        inspect.signature(build).bind(**options)
    except TypeError as error:
        raise ValueError(f"reward.terms: options of {spec!r}: {error}; it takes {inspect.signature(build)}") from error
    try:
        built = build(**options)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:  # a user's constructor may fail in any way
        raise ValueError(f"reward.terms: {spec!r} could not be built: {describe(error)}") from error
    unstated = [name for name in ("name", "range", "unit") if isinstance(built, Reward) and not hasattr(built, name)]
    if unstated:
        raise ValueError(f"reward.terms: {spec!r} states no {' and no '.join(unstated)}; see rewards/base.py")
    return built


def find_callable(spec: str) -> Callable[..., Any]:
    """Imports the function or class that ``path/to/file.py:name`` or ``package.module:name`` names.

    Raises:
        ValueError: There is no such file, it cannot be imported, or it does not contain the name.
    """
    where, _, name = spec.rpartition(":")
    module = _file(where, spec) if where.endswith(".py") else _module(where, spec)
    found = getattr(module, name, None)
    if not callable(found):
        names = sorted(n for n, m in vars(module).items() if callable(m) and not n.startswith("_"))
        raise ValueError(f"reward.terms: {where} has no function or class {name!r}; it has {names}")
    return found


def _file(path: str, spec: str) -> ModuleType:
    if not Path(path).is_file():
        raise ValueError(f"reward.terms: {spec!r}: no such file ({Path(path).absolute()})")
    found = importlib.util.spec_from_file_location(f"reward_file_{Path(path).stem}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may fail in any way
        raise ValueError(f"reward.terms: {path} does not import: {describe(error)}") from error
    return module


def _module(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        raise ValueError(f"reward.terms: {spec!r} does not import: {describe(error)}") from error
