"""Short runs of the script that mutates inputs, and that it finds what it looks for."""

from __future__ import annotations

import random
import time
import types

import inputs
import pytest
import torch


@pytest.mark.parametrize(
    ("kind", "count"), [("prompts", 60), ("images", 60), ("tars", 60), ("checkpoints", 12), ("answers", 15)]
)
def test_mutated_inputs_are_read_or_refused(kind, count):
    outcomes = inputs.run(kind, seed=1, count=count)
    assert outcomes.total() == count
    assert min(outcomes["read"], outcomes["refused"] if kind != "answers" else 1) > 0


def _raises(_: random.Random) -> None:
    raise KeyError("odd")


def _hangs(_: random.Random) -> None:
    time.sleep(60)


class _Grows:
    """Keeps what it reads from the second input on."""

    def __init__(self) -> None:
        self._kept: list[torch.Tensor] = []

    def try_one(self, _: random.Random) -> None:
        self._kept.append(torch.ones(2**20 if self._kept else 1))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (types.SimpleNamespace(try_one=_raises), "tars, seed 7: KeyError: 'odd'"),
        (types.SimpleNamespace(try_one=_hangs), r"tars, seed 7: not ended after 0.1 s"),
        (_Grows(), r"tars, seed 8\d?: the memory has grown by \d MiB"),
    ],
)
def test_a_reader_that_fails_is_found_with_the_seed(monkeypatch, target, message):
    monkeypatch.setattr(inputs, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(inputs, "MAX_GROWTH", 2**20)
    with pytest.raises(inputs.Failure, match=message):
        inputs.run("tars", seed=7, count=200, target=target)
