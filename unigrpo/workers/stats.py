"""Cost of the work of a group: seconds, arithmetic and memory of each method.

This module imports no model, because workers without one are timed, too.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from unigrpo.cost.hardware import gpu_of_this_machine


@dataclass(frozen=True, kw_only=True)
class Work:
    """One call of a method on one worker, or the sum of several calls."""

    seconds: float
    flops: float = 0.0
    """Floating-point operations of the model's passes, backward and recomputation included."""
    possible_flops: float = 0.0
    """Operations that the GPU could have done in that time; 0 on a CPU."""
    peak_gb: float = 0.0
    """Highest memory of the process so far, in 1e9 bytes: allocated on its GPU, or resident on a CPU."""

    def __add__(self, other: Work) -> Work:
        return Work(
            seconds=self.seconds + other.seconds,
            flops=self.flops + other.flops,
            possible_flops=self.possible_flops + other.possible_flops,
            peak_gb=max(self.peak_gb, other.peak_gb),
        )


def timed(worker: Any, call: Callable[[], Any]) -> tuple[Any, Work]:
    """Returns the result of a call of a worker's method, and what the call cost.

    A worker that runs a model has a ``meter``, which is a :class:`~unigrpo.workers.flop_meter.FlopMeter`, and a
    ``device``.
    """
    meter: Any = getattr(worker, "meter", None)
    before, started = (0.0 if meter is None else meter.flops), time.monotonic()
    result = call()
    if meter is None:
        return result, Work(seconds=time.monotonic() - started)
    if worker.device.type == "cuda":
        torch.cuda.synchronize(worker.device)
    seconds = time.monotonic() - started
    gpu = gpu_of_this_machine() if worker.device.type == "cuda" else None
    return result, Work(
        seconds=seconds,
        flops=meter.flops - before,
        possible_flops=0.0 if gpu is None else gpu.tflops * 1e12 * seconds,
        peak_gb=peak_memory_gb(worker.device),
    )


class WorkerStats:
    """The work of a group since the last :meth:`take`, recorded when its results arrive."""

    def __init__(self, size: int) -> None:
        """Starts without work.

        Args:
            size: Number of workers of the group.
        """
        self._size = size
        self._work: dict[str, Work] = {}

    def record(self, method: str, work: Iterable[Work]) -> None:
        """Adds the cost of one call of a method, one entry per worker."""
        for one in work:
            self._work[method] = self._work[method] + one if method in self._work else one

    def mean_seconds(self, method: str) -> float:
        """Seconds that the mean worker spent in a method; 0 if none was in it."""
        return self._work[method].seconds / self._size if method in self._work else 0.0

    def clear(self) -> None:
        """Forgets the work so far."""
        self._work = {}

    def pop(self, role: str, step_seconds: float) -> dict[str, float]:
        """Returns the metrics of a role for one step and starts anew.

        Args:
            role: `policy`, `reference` or `rollout`.
            step_seconds: Duration of the step.

        Returns:
            Mean seconds of each method and the idle rest of the step, TFLOP/s of each worker while it computes, the
            fraction of what the GPU can do (MFU), and the highest memory.
        """
        work, self._work = self._work, {}
        if not work:
            return {}
        total = sum(work.values(), start=Work(seconds=0.0))
        computing = [one for one in work.values() if one.flops > 0]
        seconds, possible = (sum(getattr(w, name) for w in computing) for name in ("seconds", "possible_flops"))
        metrics = {f"perf/{role}_{method}_seconds": one.seconds / self._size for method, one in work.items()}
        metrics[f"perf/{role}_idle_seconds"] = max(0.0, step_seconds - total.seconds / self._size)
        metrics[f"memory/{role}_peak_gb"] = total.peak_gb
        if seconds > 0:
            metrics[f"perf/{role}_tflops"] = total.flops / seconds / 1e12
            for method, one in work.items():
                if one.flops > 0:
                    metrics[f"perf/{role}_{method}_tflops"] = one.flops / one.seconds / 1e12
        if possible > 0:
            metrics[f"perf/{role}_mfu"] = total.flops / possible
        return metrics


def peak_memory_gb(device: torch.device) -> float:
    """Returns the highest memory in gigabytes (1e9 bytes): allocated on the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
