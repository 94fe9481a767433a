"""Runs the script that mutates inputs for a short time, and tests that it finds errors."""

from __future__ import annotations

import random
import time
import types

import inputs
import pytest


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


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (types.SimpleNamespace(try_one=_raises), "tars, seed 7: KeyError: 'odd'"),
        (types.SimpleNamespace(try_one=_hangs), r"tars, seed 7: not ended after 0.1 s"),
    ],
)
def test_a_reader_that_fails_is_found_with_the_seed(monkeypatch, target, message):
    monkeypatch.setattr(inputs, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(inputs, "MAX_GROWTH", 2**20)
    with pytest.raises(inputs.Failure, match=message):
        inputs.run("tars", seed=7, count=200, target=target)


def test_a_reader_that_keeps_what_it_reads_is_found(monkeypatch):
    """The test sets the peak memory, because earlier tests of this process may have used more."""
    kept: list[int] = []
    target = types.SimpleNamespace(try_one=lambda _: kept.append(2**20))
    monkeypatch.setattr(inputs, "largest_memory", lambda: 2**30 + sum(kept))
    monkeypatch.setattr(inputs, "MAX_GROWTH", 5 * 2**20)
    with pytest.raises(inputs.Failure, match="tars, seed 13: the memory has grown by 6 MiB"):
        inputs.run("tars", seed=7, count=200, target=target)
