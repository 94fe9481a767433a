"""Measures how fast the ranks of torchrun sum a tensor, over NCCL on GPUs, gloo elsewhere; prints a line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist

REPETITIONS = 10


def main() -> None:
    """The command: every rank runs it, and rank 0 prints the result."""
    parser = argparse.ArgumentParser(description="Measures the all-reduce of the ranks of torchrun.")
    parser.add_argument("--megabytes", type=int, default=512, help="size of the tensor (default: 512)")
    parsed = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(minutes=5))
    result = measure(parsed.megabytes, device)
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(result) + "\n")
    dist.destroy_process_group()


def measure(megabytes: int, device: torch.device) -> dict[str, float | bool]:
    """Sums a bfloat16 tensor over all ranks.

    Returns:
        The number of ranks, whether the sum was right, and the bus bandwidth in GB (1e9 bytes) per second: the bytes
        that a ring sends from each rank, 2 (n - 1) / n of the tensor, over the seconds.
    """
    ranks = dist.get_world_size()
    values = torch.ones(megabytes * 1_000_000 // 2, dtype=torch.bfloat16, device=device)
    dist.all_reduce(values)  # the first call connects the ranks
    is_right = bool((values == ranks).all())
    values.zero_()
    _wait_for(device)
    started = time.perf_counter()
    for _ in range(REPETITIONS):
        dist.all_reduce(values)
    _wait_for(device)
    seconds = (time.perf_counter() - started) / REPETITIONS
    num_bytes = values.numel() * values.element_size()
    return {"ranks": ranks, "is_right": is_right, "gb_per_s": 2 * (ranks - 1) / ranks * num_bytes / seconds / 1e9}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    dist.barrier()


if __name__ == "__main__":
    main()
