"""Limits the memory of a reward's process, so that a reward that leaks memory fails without affecting the machine."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import psutil

FRACTION = 0.9
"""Fraction of the free memory that a process may take."""
LEAST = 4 * 1024**3
"""Number of bytes that a process may always take, because the limit counts reserved memory such as threads' stacks."""
_GROUP = Path("/sys/fs/cgroup")
"""The limits of a container (version 2 of Linux's control groups)."""


def free_memory() -> int:
    """Returns the number of free bytes of this machine, or of this container if it has fewer; at least ``LEAST``."""
    free = psutil.virtual_memory().available
    try:
        limit = int((_GROUP / "memory.max").read_text())
        used = int((_GROUP / "memory.current").read_text())
        cached = re.search(r"^file (\d+)$", (_GROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # there is no container, or its limit is "max"
        return max(LEAST, free)
    return max(LEAST, min(free, limit - used + int(cached[1] if cached else 0)))


def limit_memory(free: int | None = None) -> None:
    """Limits the memory of this process to most of what is free now; beyond it, Python raises MemoryError.

    RLIMIT_DATA counts private memory that can be written, and so neither weights that are mapped from files nor the
    addresses that CUDA reserves. Systems other than Linux have no such limit.

    Args:
        free: Number of free bytes; None asks the system.
    """
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    most = pages * resource.getpagesize() + int(FRACTION * (free_memory() if free is None else free))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
