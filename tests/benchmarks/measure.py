"""Times alternatives in one run, so that they are compared under the same conditions, and writes the results as
JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "ray", "deepspeed", "math-verify")


def computing_clock() -> float:
    """Returns wall-clock seconds with a GPU, and otherwise the CPU seconds of this process, which depend less on
    others."""
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    alternatives: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Returns the median seconds of each alternative. Each round measures all of them in turn.

    Args:
        alternatives: Calls to time, by name.
        rounds: Number of rounds, after one that is not counted.
        clock: Function that returns the time in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(rounds + 1):
        for name, call in alternatives.items():
            started = clock()
            call()
            if number:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def gpu_peak_gb(call: Callable[[], Any]) -> float | None:
    """Returns the peak GB on the GPU during a call. Without a GPU, it returns None without a call."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return round(torch.cuda.max_memory_allocated() / 1e9, 2)


def peak_bytes(call: Callable[[], Any]) -> int:
    """Returns the peak bytes of tensors during a call beyond those before it, including memory inside of kernels."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # without it, the profiler prints two lines at each measurement
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    results: Any = profile.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def row(
    what: str, baseline: float, ours: float, unit: str, target: float | None = None, equal: str = ""
) -> dict[str, Any]:
    """Returns a line of the table with the costs of the baseline and of ours, and the ratio of both.

    Args:
        what: Description of the work.
        baseline: Cost of the baseline.
        ours: Cost of our code.
        unit: Unit of both costs.
        target: Smallest ratio that is required; None for no requirement.
        equal: Description of how far the results are equal.
    """
    return _line(
        what, baseline, ours, unit, f"{baseline / ours:.2f}x", f"at least {target:g}x" if target else "", equal
    )


def extra_row(what: str, without: float, with_it: float, unit: str, most: float) -> dict[str, Any]:
    """Returns a line of the table with an additional cost and its limit."""
    return _line(what, without, with_it, unit, f"{with_it - without:+.3f} {unit}", f"at most {most:g} {unit}", "")


def prediction_row(what: str, measured: float, predicted: float, unit: str, within: float) -> dict[str, Any]:
    """Returns a line of the table with a measured cost in the column baseline and the predicted cost in the column
    ours."""
    error = f"{predicted / measured - 1:+.0%} predicted"
    return _line(what, measured, predicted, unit, error, f"within {within:.0%}", "")


def _line(what: str, baseline: float, ours: float, unit: str, result: str, target: str, equal: str) -> dict[str, Any]:
    numbers = {"baseline": float(f"{baseline:.4g}"), "ours": float(f"{ours:.4g}"), "unit": unit}
    return {"what": what, **numbers, "result": result, "target": target, "equal": equal}


def write(name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Writes ``results/<device>/<name>.json`` with the commit, the machine and the versions, and prints it.

    Args:
        name: Name of the benchmark.
        rows: Lines of the table, see :func:`row`.
        more: Further results, by name.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }
    folder = RESULTS / ("cpu" if gpu == "none" else gpu.lower().replace(" ", "-"))
    folder.mkdir(parents=True, exist_ok=True)
    result = {"benchmark": name, "rows": rows, **more, "commit": _commit(), "machine": machine}
    text = json.dumps(result, indent=1) + "\n"
    (folder / f"{name}.json").write_text(text)
    sys.stdout.write(text)


def _processor() -> str:
    """Returns the model of the CPU if the system provides it, and otherwise the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _commit() -> str:
    """Returns the commit of the checkout, with a plus if files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RESULTS.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    if not commit:
        raise SystemExit("no commit to name beside the numbers: run the benchmark in a git checkout")
    return commit + ("+" if git("status", "--porcelain", "-uno") else "")
