"""Tests rewards in separate processes: whatever user code does, the caller gets a result before the deadline."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from rewards.base import RewardInput
from rewards.runtime import __main__ as program
from rewards.runtime.host import RewardSpec
from rewards.runtime.process import ProcessFailed, RewardProcess

INPUTS = [RewardInput(prompt="p", completion="abc", label="1"), RewardInput(prompt="q", completion="d", label="2")]
LONG = 60.0
"""A deadline in seconds that only a failing test reaches."""

CODE = """
import os, sys, time
from rewards.base import Reward

def length(*, completions):
    return [len(c) for c in completions]

def divides(*, completions):
    return [1 / 0 for _ in completions]

def helper_fails(*, completions):
    return [int(c) for c in completions]

def exits(*, completions):
    sys.exit(3)

def interrupts(*, completions):
    raise KeyboardInterrupt

def ends(*, completions):
    os._exit(7)

def hangs(*, completions):
    time.sleep(3600)

def begins_to_answer(*, completions):
    os.write(int(sys.argv[1]), b"\\0\\1\\0\\0abc")
    time.sleep(3600)

def answers_in_other_words(*, completions):
    os.write(int(sys.argv[1]), b"\\0\\0\\0\\3abc")

def forks_and_returns(*, completions):
    return [9.0] * 2 if os.fork() == 0 else [1.0] * 2

def forks_and_raises(*, completions):
    if os.fork() == 0:
        raise OSError
    return [2.0] * 2

def prints(*, completions):
    print("printed" * 1000)
    return [3.0] * 2

def starts_child(*, completions, file):
    pid = os.fork()
    if pid == 0:
        time.sleep(3600)
    open(file, "w").write(str(pid))
    return [0.0] * 2

def leaks(*, completions):
    kept = []
    while len(kept) < 64:
        kept.append(bytearray(1 << 22))
    return [0.0] * 2

class Unspeakable(Exception):
    def __str__(self):
        raise ValueError

def cannot_be_described(*, completions):
    raise Unspeakable

class OddFloat:
    def __float__(self):
        raise ArithmeticError("no number")

def odd_values(*, completions):
    return [OddFloat(), 1.0]

class Checks(Reward):
    name, range, unit = "checks", (0.0, 1.0), "x"
    def __call__(self, inputs):
        return [0.0 for _ in inputs]
    def check_prompt(self, prompt):
        if prompt.label == "1":
            raise ValueError("no gold")
        raise ZeroDivisionError("in the check")
    def close(self):
        time.sleep(3600)

class CheckEnds(Checks):
    def check_prompt(self, prompt):
        os._exit(0)

class ConstructorHangs:
    def __init__(self):
        time.sleep(3600)
    def __call__(self, *, completions):
        return []
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user") / "mine.py"
    path.write_text(CODE)
    return path


@pytest.fixture
def start(file: Path) -> Iterator[Callable[..., RewardProcess]]:
    started: list[RewardProcess] = []

    def one(name: str, **options: object) -> RewardProcess:
        started.append(RewardProcess(RewardSpec(name=f"{file}:{name}", options=options)))
        return started[-1]

    yield one
    for process in started:
        process.kill()


def line_of(file: Path, text: str) -> str:
    return f"{file}:{next(n for n, line in enumerate(file.read_text().splitlines(), start=1) if text in line)}"


def test_a_call_in_the_process_gives_what_the_reward_gives(start):
    process = start("length")
    info = process.load(seconds=LONG)
    assert (info.name, info.style) == ("length", "unigrpo")
    assert process.check_prompts(INPUTS, seconds=LONG) == ["", ""]
    assert process.score(INPUTS, seconds=LONG).values == [3.0, 1.0]
    process.close()


def test_a_folder_of_the_same_name_in_the_working_directory_does_no_harm(start, tmp_path, monkeypatch):
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert start("length").load(seconds=LONG).name == "length"


@pytest.mark.parametrize(
    ("name", "reason", "line"),
    [
        ("divides", "raised ZeroDivisionError: division by zero ({})", "1 / 0"),
        ("helper_fails", "raised ValueError: invalid literal for int() with base 10: 'abc' ({})", "int(c)"),
        ("exits", "raised SystemExit: 3 ({})", "sys.exit(3)"),
        ("interrupts", "raised KeyboardInterrupt ({})", "raise KeyboardInterrupt"),
        (
            "cannot_be_described",
            "raised Unspeakable: its message cannot be read (ValueError) ({})",
            "raise Unspeakable",
        ),
        (
            "odd_values",
            "returned something that is no number: ArithmeticError: no number ({})",
            "raise ArithmeticError",
        ),
    ],
)
def test_an_error_is_one_line_with_the_line_of_the_user(start, file, name, reason, line):
    process = start(name)
    process.load(seconds=LONG)
    scores = process.score(INPUTS, seconds=LONG)
    assert scores.values == [None, None]
    assert scores.reason == reason.format(line_of(file, line))
    assert process.score(INPUTS, seconds=LONG).has_failed  # the process continues


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ends", r"ended its own process \(exit status 7\)"),
        ("hangs", "did not answer within 0.5 s"),
        ("begins_to_answer", "did not answer within 0.5 s"),
        ("answers_in_other_words", r"sent something that is no answer \(UnpicklingError\)"),
    ],
)
def test_a_call_without_a_result_is_a_failed_process(start, name, message):
    process = start(name)
    process.load(seconds=LONG)
    with pytest.raises(ProcessFailed, match=message):
        process.score(INPUTS, seconds=0.5 if "0.5 s" in message else LONG)


@pytest.mark.parametrize(("name", "value"), [("forks_and_returns", 1.0), ("forks_and_raises", 2.0), ("prints", 3.0)])
def test_a_forked_child_ends_and_its_parent_continues(start, name, value):
    process = start(name)
    process.load(seconds=LONG)
    for _ in range(2):
        assert process.score(INPUTS, seconds=LONG).values == [value, value]


def test_problems_of_prompts_are_distinguished_from_errors_of_the_check(start, file):
    process = start("Checks")
    process.load(seconds=LONG)
    assert process.check_prompts(INPUTS[:1], seconds=LONG) == ["no gold"]
    with pytest.raises(ValueError) as raised:
        process.check_prompts(INPUTS, seconds=LONG)
    line = line_of(file, "raise ZeroDivisionError")
    assert str(raised.value) == f"check_prompt raised ZeroDivisionError: in the check ({line})"
    process.close()  # its close method hangs


def test_a_check_that_ends_the_process_is_a_failed_process(start):
    process = start("CheckEnds")
    process.load(seconds=LONG)
    with pytest.raises(ProcessFailed, match=r"ended its own process \(exit status 0\) while it checked prompts"):
        process.check_prompts(INPUTS, seconds=LONG)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("import os; os._exit(0)", ProcessFailed, r"ended its own process \(exit status 0\) while it was imported"),
        ("import time; time.sleep(3600)", ProcessFailed, "did not answer within 2 s while it was imported"),
        ("raise KeyboardInterrupt", ValueError, r"could not be built: KeyboardInterrupt \(.*broken.py:1\)"),
        ("raise SystemExit(3)", ValueError, r"broken.py does not import: SystemExit: 3 \(.*broken.py:1\)"),
        ("1 / 0", ValueError, r"does not import: ZeroDivisionError: division by zero \(.*broken.py:1\)"),
        ("def f(:", ValueError, "does not import: SyntaxError"),
    ],
)
def test_every_failure_at_import_has_a_result(tmp_path, code, error, message):
    path = tmp_path / "broken.py"
    path.write_text(code + "\n")
    process = RewardProcess(RewardSpec(name=f"{path}:f", options={}))
    with pytest.raises(error, match=message):
        process.build(seconds=2.0 if "sleep" in code else LONG)
    process.kill()


def test_a_constructor_that_hangs_is_a_failed_process(start):
    with pytest.raises(ProcessFailed, match="did not answer within 2 s while it was loaded"):
        start("ConstructorHangs").load(seconds=2.0)


def test_ending_the_process_ends_the_children_of_the_reward(start, tmp_path):
    pid_file = tmp_path / "pid"
    process = start("starts_child", file=str(pid_file))
    process.load(seconds=LONG)
    process.score(INPUTS, seconds=LONG)
    child = int(pid_file.read_text())
    assert Path(f"/proc/{child}").exists()
    process.kill()
    for _ in range(500):
        if not Path(f"/proc/{child}").exists() or "(zombie)" in Path(f"/proc/{child}/status").read_text():
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        pytest.fail("the child outlived its reward")


def test_a_reward_that_leaks_reaches_its_memory_limit_and_the_process_continues(start, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import rewards.runtime.memory as m\nm.free_memory = lambda: 200 << 20")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = start("leaks")
    process.load(seconds=LONG)
    for _ in range(2):
        scores = process.score(INPUTS, seconds=LONG)
        assert scores.values == [None, None]
        assert "MemoryError: this process has taken all the memory that it may" in scores.reason


class Calculator:
    """The object whose methods the program calls in the test of its protocol."""

    def __init__(self, number: int) -> None:
        self.number = number

    def divided_by(self, other: int) -> float:
        if other < 0:
            raise ValueError("give a positive number")
        return self.number / other


def test_the_program_answers_calls_until_the_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = Pipe()
    monkeypatch.setattr(sys, "path", [*sys.path])
    paths: list[Any] = [*sys.path, "/added"]
    for message in (paths, (f"{__name__}.Calculator", (6,)), *(("divided_by", (n,)) for n in (3, 0, -1))):
        here.send(message)
    monkeypatch.setattr(program.pkgutil, "resolve_name", {f"{__name__}.Calculator": Calculator}.__getitem__)
    received: list[Any] = []
    monkeypatch.setattr(type(there), "send", lambda connection, value: received.append(value))
    here.close()
    with pytest.raises(EOFError):
        program._serve(there)
    assert sys.path == paths
    assert received[0] == (True, 2.0)
    assert received[1][0] is False and received[1][1].startswith("ZeroDivisionError: division by zero")
    assert received[2] == (False, "give a positive number")
