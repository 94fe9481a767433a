"""Tests the memory limit of the process of a reward: that of the machine, or of its container if that has less."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rewards.runtime import memory

GB = 1024**3


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulates a machine with 50 GB of free memory, and returns the empty folder of its control group."""
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=50 * GB))
    return tmp_path


@pytest.mark.parametrize(
    ("most", "used", "cached", "free"),
    [
        (30 * GB, 12 * GB, 2 * GB, 20 * GB),  # the file cache can be freed
        (90 * GB, 12 * GB, 0, 50 * GB),
        (5 * GB, 4 * GB, 0, 4 * GB),  # the smallest limit of a process
    ],
)
def test_the_memory_of_a_container_counts_if_it_is_less_than_that_of_the_machine(
    group: Path, most: int, used: int, cached: int, free: int
) -> None:
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 5\nfile {cached}\nfile_mapped 7\n")
    assert memory.free_memory() == free


def test_without_a_limit_of_a_container_the_memory_of_the_machine_counts(group: Path) -> None:
    assert memory.free_memory() == 50 * GB
    for name in ("memory.max", "memory.current", "memory.stat"):
        (group / name).write_text("max\n")
    assert memory.free_memory() == 50 * GB


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, 3 * GB])
def test_nine_tenths_of_the_free_memory_are_added_to_what_the_process_has(
    monkeypatch: pytest.MonkeyPatch, hard: int
) -> None:
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (hard, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limit: limits.append((kind, limit)))
    memory.limit_memory(10 * GB)
    [(kind, (most, kept))] = limits
    assert (kind, kept) == (resource.RLIMIT_DATA, hard)
    if hard == 3 * GB:
        assert most == hard, "the limit is never above that of the system"
    else:
        own = psutil.Process().memory_info().data
        assert most - 9 * GB == pytest.approx(own, rel=0.2)
    monkeypatch.setattr(sys, "platform", "darwin")
    memory.limit_memory(10 * GB)
    assert len(limits) == 1, "only Linux has this limit"
