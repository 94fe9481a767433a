"""Timing of alternatives in one run, so that what is compared saw the same machine, and the JSON that comes of it."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "math-verify")


def interleaved(alternatives: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each alternative; the rounds go through all of them in turn.

    Args:
        alternatives: What to time, by name.
        rounds: How often, after one round that is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(rounds + 1):
        for name, call in alternatives.items():
            started = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def write(name: str, results: dict[str, Any]) -> None:
    """Writes ``results/<name>.json`` with the machine and the versions, and prints it."""
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"benchmark": name, **results, "machine": machine}, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text)
    sys.stdout.write(text)


def _gpu() -> str:
    import torch  # noqa: PLC0415  # not every benchmark needs it

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
