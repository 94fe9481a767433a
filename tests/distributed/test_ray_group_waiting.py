"""Tests the log messages about workers that do not answer, with a simulated clock and a simulated Ray."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from ray.exceptions import RayActorError, RayError

from unigrpo.distributed import ray_group
from unigrpo.distributed.ray_group import DEATH_SECONDS, GRACE_SECONDS, RayGroup, WorkerDied, WorkerFailed


class FakeRay:
    """A Ray whose calls take as many seconds as their value, and a clock that advances only in ``wait``."""

    def __init__(self) -> None:
        self.now = 0.0
        self.started = 0.0
        self.errors: dict[float, RayError] = {}
        """Errors that calls raise, by their values."""

    def monotonic(self) -> float:
        return self.now

    def wait(self, refs: Sequence[float], timeout: float, num_returns: int = 1) -> tuple[list[float], list[float]]:
        end = self.started + sorted(refs)[num_returns - 1]
        self.now = max(self.now, min(end, self.now + timeout))
        done = [ref for ref in sorted(refs) if self.started + ref <= self.now][:num_returns]
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref: float) -> float:
        if ref in self.errors:
            raise self.errors[ref]
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


def test_workers_that_do_not_answer_are_named_after_two_minutes_and_then_less_and_less_often(fake, caplog):
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


def test_workers_for_which_the_others_waited_until_a_timeout_are_named(fake):
    group = RayGroup("policy", [None, None, None, None])
    fake.errors = {900.0: RayError("Timed out waiting 900000ms for recv"), 901.0: RayError("Connection closed")}
    with pytest.raises(WorkerFailed) as failed:
        waited(fake, group, 900.0, 5000.0, 901.0, 6000.0)
    assert str(failed.value).startswith(
        "policy worker 0 failed in generate: Timed out waiting 900000ms for recv; policy worker 2 failed in generate: "
        "Connection closed. After 900 s, policy workers 1, 3 had neither ended generate nor failed"
    )
    fake.errors = {900.0: RayActorError()}
    with pytest.raises(WorkerDied, match=r"policy worker 1 died in generate: .* After 900 s, policy worker 0 had nei"):
        waited(fake, RayGroup("policy", [None, None]), 5000.0, 900.0)


def test_a_death_that_ray_reports_late_explains_lost_connections(fake):
    fake.errors = {5.0: RayError("gloo: Connection closed by peer [127.0.0.1]"), 20.0: RayActorError()}
    with pytest.raises(WorkerDied, match=r"^rollout worker 1 died in generate"):
        waited(fake, RayGroup("rollout", [None, None]), 5.0, 20.0)
    assert fake.now == 20.0
    fake.errors = {5.0: RayError("Connection reset by peer")}
    with pytest.raises(WorkerFailed, match=r"^rollout worker 0 failed in generate: Connection reset by peer"):
        waited(fake, RayGroup("rollout", [None, None]), 5.0, 5000.0)
    assert fake.now == fake.started + 5.0 + GRACE_SECONDS + DEATH_SECONDS


def test_an_early_error_names_no_other_worker(fake):
    fake.errors = {5.0: RayError("no gold")}
    with pytest.raises(WorkerFailed, match=r"^policy worker 0 failed in generate: no gold$"):
        waited(fake, RayGroup("policy", [None, None]), 5.0, 5000.0)
