"""Compares sending weights to another process by broadcast with writing and reading a checkpoint.

python tests/benchmarks/weight_sync.py [--gigabytes 0.2]

The broadcast uses Gloo on a CPU and NCCL between two GPUs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from measure import row, write
from safetensors.torch import load_file, save_file
from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage]

from unigrpo.distributed.weight_channel import Broadcast

ROUNDS = 3
NUM_TENSORS = 32
FABRIC_GB_PER_SECOND = {"NVLink": 450.0, "400 Gb InfiniBand": 50.0, "PCIe 5": 64.0}
"""Bandwidth in one direction according to the vendors."""
WEIGHTS_GB = 16.2
"""Size of MMaDA-8B in bfloat16."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.2, help="GB of bfloat16 weights to send")
    gigabytes = parser.parse_args().gigabytes
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = mp.get_context("spawn")
    folders, answers = context.Queue(), context.Queue()
    receiver = context.Process(target=receive, args=(store.port, gigabytes, folders, answers))
    receiver.start()
    with tempfile.TemporaryDirectory() as folder:
        sent = send(store, gigabytes, Path(folder), folders, answers)
    receiver.join()
    rate = gigabytes / sent["broadcast"]
    rows = [row(f"{gigabytes:g} GB of weights to another process", sent["disk"], sent["broadcast"], "s")]
    derived = {name: round(WEIGHTS_GB / speed, 3) for name, speed in FABRIC_GB_PER_SECOND.items()}
    write(
        "weight_sync",
        rows,
        gb_per_second=round(rate, 3),
        seconds_for_8b_at_this_rate=round(WEIGHTS_GB / rate, 1),
        least_seconds_for_8b_by_arithmetic=derived,
    )


def weights(gigabytes: float, device: torch.device) -> dict[str, torch.Tensor]:
    """Returns as many equal matrices as a model has large ones."""
    size = int(gigabytes * 1e9 / 2 / NUM_TENSORS / 1024)
    return {
        f"w{i}": torch.full((size, 1024), float(i), dtype=torch.bfloat16, device=device) for i in range(NUM_TENSORS)
    }


def device_of(rank: int) -> torch.device:
    return torch.device("cuda", rank) if torch.cuda.device_count() > 1 else torch.device("cpu")


def send(store: TCPStore, gigabytes: float, folder: Path, folders: Any, answers: Any) -> dict[str, float]:
    """Returns the median seconds until the other process has the weights."""
    channel = Broadcast(store, 0, 2, device_of(0))
    tensors = weights(gigabytes, device_of(0))
    seconds: dict[str, list[float]] = {"broadcast": [], "disk": []}
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        for tensor in tensors.values():
            channel.broadcast(tensor)
        answers.get()
        seconds["broadcast"].append(time.perf_counter() - started)
        started = time.perf_counter()
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, folder / "weights.safetensors")
        folders.put(folder)
        answers.get()
        seconds["disk"].append(time.perf_counter() - started)
    return {name: sorted(values[1:])[ROUNDS // 2] for name, values in seconds.items()}


def receive(port: int, gigabytes: float, folders: Any, answers: Any) -> None:
    """Receives weights in the other process, checks them, and reports the time."""
    store = TCPStore("127.0.0.1", port, is_master=False)
    channel = Broadcast(store, 1, 2, device_of(1))
    expected = weights(gigabytes, device_of(1))
    for _ in range(ROUNDS + 1):
        found = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
        for tensor in found.values():
            channel.broadcast(tensor)
        if device_of(1).type == "cuda":
            torch.cuda.synchronize(device_of(1))
        answers.put("broadcast")
        loaded = load_file(folders.get() / "weights.safetensors")
        for name, tensor in found.items():
            tensor.copy_(loaded[name])
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), "the weights are not equal"
        answers.put("disk")


if __name__ == "__main__":
    main()
