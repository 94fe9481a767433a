"""Tests that a second run in a directory is refused in one line, and that no lock remains after a run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from unigrpo.runs.lock import LOCK_FILE, locked

HOLDER = """
import sys, pathlib
from unigrpo.runs.lock import locked
with locked(pathlib.Path(sys.argv[1]), "--run_dir"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts another process that has the lock of ``run``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def lock_twice(folder: Path) -> None:
    with locked(folder, "--run_dir"):
        pytest.fail("two processes have the lock")


def test_a_second_run_is_refused_with_the_name_of_the_first(holder, tmp_path):
    with pytest.raises(
        ValueError, match=rf"--run_dir .*run is in use by another run \(process {holder.pid} on .*since"
    ):
        lock_twice(tmp_path / "run")
    assert (tmp_path / "run" / LOCK_FILE).read_text().startswith(f"process {holder.pid} ")


def test_a_killed_run_has_no_lock(holder, tmp_path):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run", "--run_dir"):
        assert f"process {os.getpid()} " in (tmp_path / "run" / LOCK_FILE).read_text()


def test_a_lock_on_a_file_that_another_run_has_just_deleted_does_not_count(tmp_path, monkeypatch):
    path = tmp_path / "run" / LOCK_FILE
    flock, calls = fcntl.flock, []

    def deleted_before(file: IO[str], operation: int) -> None:
        if not calls:
            path.unlink()
        calls.append(operation)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", deleted_before)
    with locked(tmp_path / "run", "--run_dir"):
        assert len(calls) == 2
        with pytest.raises(ValueError, match="in use"):
            lock_twice(tmp_path / "run")


def test_an_empty_directory_is_removed_and_one_with_files_is_kept(tmp_path):
    with locked(tmp_path / "run", "--run_dir"):
        pass
    assert not (tmp_path / "run").exists()
    with locked(tmp_path / "run", "--run_dir"):
        (tmp_path / "run" / "metrics.jsonl").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_directory_that_cannot_be_written_is_named_with_its_setting(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"--run_dir .*run cannot be written .*choose another --run_dir"):
        lock_twice(tmp_path / "run")
