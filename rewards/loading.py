"""A name in the config -> a reward."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import rewards
from rewards.base import Reward, RewardInput

HIDDEN = {"base", "loading", "grade"}


def load_reward(spec: str, options: Mapping[str, Any]) -> Reward:
    """Builds the reward of the file ``rewards/<spec>.py``, or of ``path/to/file.py:function``.

    Raises:
        ValueError: No such reward; the message lists the names.
    """
    if ".py:" in spec:
        return FunctionReward(_function(spec), dict(options))
    names = sorted(m.name for m in pkgutil.iter_modules(rewards.__path__) if m.name not in HIDDEN)
    if spec not in names:
        raise ValueError(f"reward.terms: no {spec!r}; choose one of {names}, or give path/to/file.py:function")
    module = importlib.import_module(f"rewards.{spec}")
    (reward,) = (m for m in vars(module).values() if _is_reward_class(m) and m.__module__ == module.__name__)
    return reward(**options)


def _is_reward_class(member: object) -> TypeGuard[type[Reward]]:
    return inspect.isclass(member) and hasattr(member, "range")


def _function(spec: str) -> Callable[..., Any]:
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"reward.terms: {spec!r}: no such file ({Path(path).absolute()})")
    found = importlib.util.spec_from_file_location(f"reward_file_{Path(path).stem}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        found.loader.exec_module(module)
    except Exception as error:  # a user's file may fail in any way
        raise ValueError(f"reward.terms: {path} does not import: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, name, None)):
        raise ValueError(f"reward.terms: {path} has no function {name!r}")
    return getattr(module, name)


class FunctionReward:
    """A user's function of keyword lists."""

    range = (float("-inf"), float("inf"))
    unit = "the function's own"

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.name = function.__name__
        self._function = function
        self._options = options

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return list(
            self._function(
                prompts=[i.prompt for i in inputs],
                completions=[i.completion for i in inputs],
                labels=[i.label for i in inputs],
                images=[i.image for i in inputs],
                input_images=[i.input_images for i in inputs],
                metadata=[i.metadata for i in inputs],
                **self._options,
            )
        )

    def check_label(self, label: str | None) -> None:
        """A function takes any gold."""

    def close(self) -> None:
        """Nothing to end."""
