"""Tests the limits of a function in a process, with the one that compares expressions: CPU time, memory, threads."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewards.runtime.limited import LimitedFunction, ProcessUnavailable
from rewards.runtime.process import DeadlineMissed, ProcessFailed

TOWER = "(((2^{999})^{999})^{999})^{999}"


def limited(cpu_seconds: float = 2.0, wall_seconds: float = 300.0) -> LimitedFunction:
    example = ("\\sqrt{x}", "x^{1/2}")
    name = "rewards.grading.symbolic:equal"
    return LimitedFunction(name, example, "math-verify==0.9.0", cpu_seconds, wall_seconds)


@pytest.fixture(scope="module")
def verify() -> Iterator[LimitedFunction]:
    verify = limited(cpu_seconds=5.0)
    yield verify
    verify.close()


def process_of(verify: LimitedFunction) -> int:
    assert verify._process is not None
    return verify._process.pid


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("2\\sqrt{3}", "\\sqrt{12}", True),
        ("x^2-1", "(x-1)(x+1)", True),
        ("\\sqrt{2}", "1.414214", False),
        ("1", "2", False),
    ],
)
def test_it_returns_what_the_function_returns(verify, gold, answer, expected):
    assert verify(gold, answer) is expected


def test_a_call_that_exceeds_its_cpu_time_is_ended_and_the_next_works():
    verify = limited(cpu_seconds=0.5)
    with pytest.raises(DeadlineMissed, match="CPU time"):
        verify("2", TOWER)
    assert verify("\\frac{1}{2}", "\\frac{2}{4}") is True
    verify.close()


def test_imports_at_the_start_of_the_process_do_not_count():
    verify = limited(cpu_seconds=0.05)
    assert verify("1", "1") is True
    verify.close()


def test_time_in_which_the_process_does_not_compute_does_not_count():
    verify = limited(cpu_seconds=0.5)
    verify("1", "1")
    os.kill(process_of(verify), signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (process_of(verify), signal.SIGCONT)).start()
    assert verify("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}") is True
    verify.close()


def test_a_process_that_sleeps_is_ended_by_the_wall_clock_and_the_next_works():
    verify = limited(wall_seconds=20.0)
    verify("1", "1")
    verify._wall_seconds = 0.3
    stopped = process_of(verify)
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(DeadlineMissed, match="did not answer within"):
        verify("1", "1")
    verify._wall_seconds = 60.0
    assert verify("1", "1") is True
    assert process_of(verify) != stopped
    verify.close()


def test_a_process_that_dies_is_replaced(verify):
    verify("1", "1")
    os.kill(process_of(verify), signal.SIGKILL)
    time.sleep(0.1)
    assert verify("1", "1") is True


def test_a_process_that_dies_in_a_call_is_an_error(verify):
    verify("1", "1")
    os.kill(process_of(verify), signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (process_of(verify), signal.SIGKILL)).start()
    with pytest.raises(ProcessFailed):
        verify("1", "1")
    assert verify("1", "1") is True


def test_a_call_that_raises_is_an_error_and_the_process_continues(verify):
    verify("1", "1")
    process = process_of(verify)
    with pytest.raises(ProcessFailed, match="raised TypeError"):
        verify("1", ["2"])  # a list cannot be a key of a cache
    assert verify("1", "1") is True
    assert process_of(verify) == process


def test_memory_is_limited(verify):
    verify("1", "1")
    limits = Path(f"/proc/{process_of(verify)}/limits")
    if not limits.is_file():
        pytest.skip("needs /proc")
    (address_space,) = (line for line in limits.read_text().splitlines() if line.startswith("Max address space"))
    assert address_space.split()[3] == str(2 * 1024**3)


def test_threads_share_one_process(verify):
    outcomes: list[bool] = []

    def ask(n: int) -> None:
        for _ in range(5):
            outcomes.append(verify(f"{n}\\sqrt{{3}}", f"\\sqrt{{{3 * n * n}}}"))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 30


def test_the_alarm_of_the_caller_is_kept(verify):
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert verify("\\frac{\\pi}{2}", "\\pi/2") is True
        time.sleep(0.3)
        assert rang == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_process_that_cannot_start_is_an_error_and_no_wrong_answer(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ProcessUnavailable, match="math-verify"):
        limited()("1", "2")


def test_a_folder_of_the_same_name_in_the_working_directory_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "rewards" / "grading").mkdir(parents=True)
    for package in (tmp_path / "rewards", tmp_path / "rewards" / "grading"):
        (package / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    verify = limited()
    assert verify("1", "1") is True
    verify.close()


def test_closing_ends_the_process():
    verify = limited()
    verify("1", "1")
    process = verify._process
    verify.close()
    assert process is not None
    assert process.status is not None


def test_it_is_pickled_without_its_process():
    copied = pickle.loads(pickle.dumps(limited(cpu_seconds=5.0)))
    assert copied("1", "1") is True
    copied.close()
