"""Tests how the actors of models make their workers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import pytest

from unigrpo.config import ActorConfig, RunConfig
from unigrpo.distributed import actors


class LoadedError(Exception):
    """Raised in place of loading the model."""


@pytest.mark.wrong_types
def test_the_weights_are_checked_for_nan_once_on_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rank of the policy on each of two nodes checks them; the reference and rollout workers do not."""
    searched: list[bool] = []

    def load(*_: Any, check_values: bool = True, **__: Any) -> None:
        searched.append(check_values)
        raise LoadedError

    monkeypatch.setattr(actors, "load_policy", load)
    monkeypatch.setattr(actors, "check_gpu", lambda: None)
    monkeypatch.setattr(actors.torch, "set_num_threads", lambda _: None)
    config = replace(RunConfig(), actor=ActorConfig(num_nodes=2, num_gpus_per_node=4))
    for rank in range(8):
        monkeypatch.setattr(actors.dist, "get_rank", lambda rank=rank: rank)
        with pytest.raises(LoadedError):
            actors.training_engine(config, MagicMock())
    assert searched == [rank in (0, 4) for rank in range(8)]
    with pytest.raises(LoadedError):
        object.__new__(actors.ReferenceActor).build(config, MagicMock())
    with pytest.raises(LoadedError):
        actors.RolloutActor().initialize(config)
    assert searched[8:] == [False, False]
