"""What the log says of workers that do not answer, on a clock and a Ray that the test drives."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from unigrpo.distributed import ray_group
from unigrpo.distributed.ray_group import RayGroup


class FakeRay:
    """Calls whose number of seconds is their value, and a clock that stands still but in ``wait``."""

    def __init__(self) -> None:
        self.now = 0.0
        self.started = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, refs: Sequence[float], timeout: float) -> tuple[list[float], list[float]]:
        next_end = self.started + min(refs)
        self.now = max(self.now, min(next_end, self.now + timeout))
        return ([min(refs)] if self.now >= next_end else []), []

    def get(self, ref: float) -> float:
        return ref


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(ray_group, "ray", fake)
    monkeypatch.setattr(ray_group, "time", fake)
    return fake


def waited(fake: FakeRay, group: RayGroup, *seconds: float) -> list[float]:
    fake.started = fake.now
    return group._results(list(seconds), "generate")


def test_workers_that_do_not_answer_are_named_with_the_call_after_two_minutes_and_then_ever_more_rarely(fake, caplog):
    group = RayGroup("policy", [None, None, None])
    assert waited(fake, group, 1.0, 500.0, 130.0) == [1.0, 500.0, 130.0]
    assert [record.getMessage().partition(". If")[0] for record in caplog.records] == [
        "policy workers 1, 2: still in generate after 120 s, 1 of 3 have ended it",
        "policy worker 1: still in generate after 240 s, 2 of 3 have ended it",
        "policy worker 1: still in generate after 480 s, 2 of 3 have ended it",
    ]


def test_a_call_that_usually_takes_long_is_named_later(fake, caplog):
    group = RayGroup("policy", [None, None])
    waited(fake, group, 100.0, 110.0)
    waited(fake, group, 100.0, 329.0)
    assert caplog.records == []
    waited(fake, group, 100.0, 1000.0)
    assert [record.getMessage().partition(". If")[0] for record in caplog.records] == [
        "policy worker 1: still in generate after 987 s, 1 of 2 have ended it; the longest generate before took 329 s"
    ]
