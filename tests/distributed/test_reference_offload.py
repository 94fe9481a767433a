"""Tests that the reference is on its device only during calls with ``ref.offload``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from unigrpo.config import RunConfig
from unigrpo.distributed.actors import ModelActor, ReferenceActor


class Module:
    """A module that records the devices to which it is moved."""

    def __init__(self) -> None:
        self.places: list[str] = ["gpu"]

    def to(self, place: str) -> None:
        self.places.append(place)


@pytest.mark.parametrize("offload", [False, True])
def test_the_reference_leaves_the_gpu_after_its_start_and_after_every_call(
    monkeypatch: pytest.MonkeyPatch, offload: bool
) -> None:
    module, seen = Module(), []

    def initialize(self: Any, config: RunConfig) -> None:
        self._offload, self._engine = offload, SimpleNamespace(module=module, device="gpu")
        self.worker = SimpleNamespace(place=lambda: seen.append(module.places[-1]) or "done")

    monkeypatch.setattr(ModelActor, "initialize", initialize)
    actor = object.__new__(ReferenceActor)
    actor.initialize(RunConfig())
    assert module.places == (["gpu", "cpu"] if offload else ["gpu"])
    result, _ = actor.run("place", (), {})
    assert result == "done"
    assert seen == ["gpu"]
    assert module.places == (["gpu", "cpu", "gpu", "cpu"] if offload else ["gpu"])
