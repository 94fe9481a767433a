"""Tests that the output of rewards is limited in each call."""

from __future__ import annotations

import io
import sys

import pytest

from rewards.base import RewardInput
from rewards.runtime import output
from rewards.runtime.host import RewardHost, RewardSpec


def test_the_beginning_of_every_call_is_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output, "MOST", 10)
    stream = io.StringIO()
    limited = output.LimitedOutput(stream)
    limited.write("12345\n")
    limited.writelines(["67", "89abc\n", "never\n"])
    note = "\n... a call may print 10 characters; the rest is left out\n"
    assert stream.getvalue() == f"12345\n6789{note}"
    limited.renew()
    limited.write("again\n")
    assert stream.getvalue() == f"12345\n6789{note}again\n"
    assert not limited.isatty()


def test_a_reward_that_prints_more_than_it_may_is_cut_in_every_call(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(output, "MOST", 1000)
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    output.limit_output()

    def prints(*, completions: list[str]) -> list[float]:
        for _ in range(1000):
            print("x" * 100)  # noqa: T201
        sys.stderr.write("z" * 1_000_000)
        return [1.0] * len(completions)

    host = RewardHost(RewardSpec(name="prints", options={}), function=prints)
    host.build()
    for call in (1, 2):
        assert host.score([RewardInput(prompt="p", completion="c", label="1")]).values == [1.0]
        assert out.getvalue().count("x") == pytest.approx(call * 990, abs=call)
        assert err.getvalue().count("z") == call * 1000
        assert err.getvalue().count("the rest is left out") == call
