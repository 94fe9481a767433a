"""A name in the config -> a reward."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import rewards
from rewards.base import Reward

HIDDEN = {"base", "loading", "grade"}


def load_reward(spec: str, options: Mapping[str, Any]) -> Reward:
    """Builds the reward of the file ``rewards/<spec>.py``.

    Raises:
        ValueError: No such reward; the message lists the names.
    """
    names = sorted(m.name for m in pkgutil.iter_modules(rewards.__path__) if m.name not in HIDDEN)
    if spec not in names:
        raise ValueError(f"reward.terms: no {spec!r}; choose one of {names}")
    module = importlib.import_module(f"rewards.{spec}")
    found = [
        m for m in vars(module).values() if inspect.isclass(m) and m.__module__ == module.__name__ and hasattr(m, "range")
    ]
    return found[0](**options)
