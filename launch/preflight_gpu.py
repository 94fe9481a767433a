"""Checks a GPU node before a run starts on it, and prints what to fix. All checks but that of torch need only
Python."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OLDEST_DRIVER = 580
"""Major version of the oldest NVIDIA driver that runs CUDA 13, which torch 2.13.0 is built for."""
LOCAL_FILE_SYSTEMS = ("ext2/ext3", "xfs", "btrfs", "tmpfs", "overlayfs", "zfs")
SHARED_MEMORY_GB = 16
OPEN_FILES = 8192
BUS_GB_PER_S = 30.0
"""An all-reduce below this is slower than PCIe 5 within a node, or than one 400 Gbit/s card between nodes."""
TORCH_CHECK = """
import json, torch
names = []
for index in range(torch.cuda.device_count()):
    ones = torch.ones(512, 512, dtype=torch.bfloat16, device=f"cuda:{index}")
    assert bool((ones @ ones == 512).all()), f"GPU {index} multiplies matrices wrongly"
    names.append(torch.cuda.get_device_name(index))
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "names": names}))
"""
"""What the environment's interpreter runs: a matrix product on every GPU."""


@dataclass(frozen=True)
class Finding:
    """The result of one check. ``fix`` says what to do, and is empty if there is nothing to fix."""

    name: str
    text: str
    fix: str = ""


def main() -> int:
    """The command. Returns its exit status: 1 if there is something to fix."""
    parser = argparse.ArgumentParser(
        prog="bash launch/preflight_gpu.sh",
        description="Checks driver, CUDA, compute mode, torch on every GPU, bandwidth between GPUs, memory for Ray, "
        "open files, disk and shared folders of this node, and prints what to fix. Run it on every node of a cluster: "
        "with --nodes, they measure the network together.",
    )
    parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="folder of the checkpoints (default: runs)")
    parser.add_argument(
        "--disk_gb", type=float, default=452.0,
        help="free space that checkpoints need, in GB; the default is for four checkpoints of an 8B model",
    )  # fmt: skip
    parser.add_argument(
        "--shared", type=Path, action="append", default=[], help="a folder that all nodes must share; may be repeated"
    )
    parser.add_argument("--nodes", type=int, default=1, help="number of nodes that run this check at the same time")
    parser.add_argument(
        "--rendezvous", default="", metavar="HOST:PORT", help="with --nodes: a free port of the first node"
    )
    parser.add_argument("--no_bandwidth", action="store_true", help="skip the measurement of bandwidth")
    parsed = parser.parse_args()
    if parsed.nodes > 1 and not (parsed.rendezvous or parsed.no_bandwidth):
        parser.error("--nodes needs --rendezvous HOST:PORT, a free port of the first node, or --no_bandwidth")
    to_fix = 0
    for finding in findings(parsed):
        to_fix += bool(finding.fix)
        lines = f"{'FIX' if finding.fix else 'ok':4}{finding.name}: {finding.text}\n"
        if finding.fix:
            lines += f"    -> {finding.fix}\n"
        sys.stdout.write(lines)
        sys.stdout.flush()
    sys.stdout.write(f"\n{socket.gethostname()}: {to_fix or 'nothing'} to fix\n")
    return 1 if to_fix else 0


def findings(parsed: argparse.Namespace) -> Iterator[Finding]:
    """Yields the results of all checks, in an order in which no check depends on a later one."""
    gpus = query("name,driver_version,compute_mode,memory.used")
    yield check_driver(gpus)
    if gpus:
        yield check_compute_mode(gpus)
        yield check_idle(gpus)
        yield check_torch(len(gpus))
        if not parsed.no_bandwidth and len(gpus) * parsed.nodes > 1:
            yield check_bandwidth(len(gpus), parsed.nodes, parsed.rendezvous)
    yield check_shared_memory(Path("/dev/shm"))
    yield check_open_files()
    yield check_disk(parsed.run_dir, parsed.disk_gb)
    for folder in parsed.shared:
        yield check_shared(folder, parsed.nodes)
    if parsed.nodes > 1:
        yield check_rdma(Path("/dev/infiniband"))


def query(fields: str) -> list[list[str]]:
    """Returns the output of ``nvidia-smi`` for each GPU; empty if the command is missing or fails."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def check_driver(gpus: list[list[str]]) -> Finding:
    """Checks that there are GPUs and that their driver supports CUDA 13."""
    if not gpus:
        return Finding("driver", "nvidia-smi lists no GPU", f"install the NVIDIA driver {OLDEST_DRIVER} or later")
    version = gpus[0][1]
    text = f"{version}, {len(gpus)} x {gpus[0][0]}"
    if int(version.split(".")[0]) >= OLDEST_DRIVER:
        return Finding("driver", text)
    return Finding(
        "driver", text,
        f"update it to {OLDEST_DRIVER} or later, which CUDA 13 needs; if you cannot update it, install NVIDIA's "
        "cuda-compat-13-0 package for a data-centre GPU (then only the result of torch below matters)",
    )  # fmt: skip


def check_compute_mode(gpus: list[list[str]]) -> Finding:
    """Checks that two processes can share a GPU, as policy and reference do."""
    modes = {mode for _, _, mode, _ in gpus}
    fix = "" if modes == {"Default"} else "sudo nvidia-smi -c DEFAULT: policy and reference share each GPU"
    return Finding("compute mode", ", ".join(sorted(modes)), fix)


def check_idle(gpus: list[list[str]]) -> Finding:
    """Checks that no other process uses memory of the GPUs."""
    used = {index: int(memory) for index, (*_, memory) in enumerate(gpus) if memory.isdigit() and int(memory) > 1024}
    if not used:
        return Finding("GPU memory", "free")
    text = ", ".join(f"GPU {index} has {memory} MiB in use" for index, memory in used.items())
    return Finding("GPU memory", text, "end the processes that nvidia-smi lists")


def check_torch(num_gpus: int) -> Finding:
    """Checks that the environment's torch computes on every GPU."""
    install = "bash launch/submit_unigrpo.sh CONFIG --dry_run on this node installs it"
    try:
        done = subprocess.run(
            [sys.executable, "-c", TORCH_CHECK], capture_output=True, text=True, check=False, timeout=300
        )
    except subprocess.TimeoutExpired:
        return Finding("torch", "no answer within 300 s", "look for a GPU that hangs: nvidia-smi -q, dmesg")
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return Finding("torch", last, install if "No module named" in last else "check this GPU and the driver")
    found = json.loads(done.stdout.splitlines()[-1])
    text = f"{found['torch']} for CUDA {found['cuda']} computes on {len(found['names'])} of {num_gpus} GPUs"
    if found["cuda"] is None:
        return Finding("torch", text, f"this is a CPU build; remove the environment; {install}")
    if len(found["names"]) < num_gpus:
        return Finding("torch", text, "update the driver, or unset CUDA_VISIBLE_DEVICES")
    return Finding("torch", text)


def check_bandwidth(num_gpus: int, nodes: int, rendezvous: str) -> Finding:
    """Checks that all GPUs sum a tensor correctly, and as fast as the hardware allows."""
    name = "all-reduce"
    where = (
        ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous]
        if nodes > 1
        else ["--standalone"]
    )
    command = [sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node", str(num_gpus)]
    script = Path(__file__).with_name("all_reduce_bandwidth.py")
    try:
        done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired:
        return Finding(
            name,
            "did not end within 600 s",
            "run it with NCCL_DEBUG=INFO, and check that all nodes run it and can connect to each other",
        )
    if done.returncode:
        text = "\n    ".join(["failed", *done.stderr.strip().splitlines()[-5:]])
        return Finding(name, text, "run it with NCCL_DEBUG=INFO")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return Finding(name, "measured; the first node prints the result")
    result = json.loads(lines[-1])
    text = f"{result['gb_per_s']:.0f} GB/s on the bus over {result['ranks']} GPUs"
    if not result["is_right"]:
        return Finding(name, text, "the sum was wrong: a GPU or link is broken")
    if result["gb_per_s"] < BUS_GB_PER_S:
        return Finding(
            name, text,
            f"expected {BUS_GB_PER_S:.0f} or more: check that NCCL uses NVLink (nvidia-smi topo -m) and, between "
            "nodes, RDMA (NCCL_DEBUG=INFO prints NET/IB and not NET/Socket)",
        )  # fmt: skip
    return Finding(name, text)


def check_shared_memory(folder: Path) -> Finding:
    """Checks that shared memory has room for Ray's object store and NCCL."""
    gigabytes = shutil.disk_usage(folder).total / 1e9
    fix = (
        ""
        if gigabytes >= SHARED_MEMORY_GB
        else (f"give {SHARED_MEMORY_GB} GB or more: docker run --shm-size 64g; in Kubernetes, an emptyDir in Memory")
    )
    return Finding("shared memory", f"{gigabytes:.0f} GB in {folder}", fix)


def check_open_files() -> Finding:
    """Checks that data loaders and Ray may open as many files as they need."""
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fix = "" if limit >= OPEN_FILES else f"ulimit -n {OPEN_FILES} before Ray is started (the hard limit is {hard})"
    return Finding("open files", f"{limit} allowed", fix)


def check_disk(folder: Path, gigabytes: float) -> Finding:
    """Checks that the disk has room for the checkpoints that a run keeps, and for one that is being written."""
    found = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(found).free / 1e9
    fix = (
        ""
        if free >= gigabytes
        else f"free some space, choose another --run_dir, or keep fewer (ckpt.max_num); needed: {gigabytes:.0f} GB"
    )
    return Finding("disk", f"{free:.0f} GB free at {found}", fix)


def check_shared(folder: Path, nodes: int, seconds: float = 60.0) -> Finding:
    """Checks that a folder can be written and, with several nodes, that it is shared and shows the files of all
    nodes."""
    name = f"shared folder {folder}"
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding(name, "is not a writable folder", "mount it, or name another folder")
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False
    ).stdout.strip()
    if nodes == 1:
        return Finding(name, f"can be written ({kind})")
    if kind in LOCAL_FILE_SYSTEMS:
        return Finding(name, f"is local to this node ({kind})", "use a file system that all nodes mount")
    mark = folder / f".unigrpo-preflight-{socket.gethostname()}"
    mark.touch()
    try:
        started = time.monotonic()
        while len(list(folder.glob(".unigrpo-preflight-*"))) < nodes and time.monotonic() - started < seconds:
            time.sleep(0.5)
        seen = len(list(folder.glob(".unigrpo-preflight-*")))
        time.sleep(min(5.0, seconds))  # the others look, too
    finally:
        mark.unlink(missing_ok=True)
    fix = (
        ""
        if seen >= nodes
        else f"start this check on all {nodes} nodes at the same time, and mount one file system on them"
    )
    return Finding(name, f"{seen} of {nodes} nodes seen ({kind})", fix)


def check_rdma(folder: Path) -> Finding:
    """Checks that there are devices for RDMA, which NCCL needs for fast communication between nodes."""
    if folder.is_dir() and any(folder.glob("uverbs*")):
        return Finding("RDMA", f"devices in {folder}")
    fix = "NCCL would use TCP: install the drivers, and give containers the devices (docker --device /dev/infiniband)"
    return Finding("RDMA", f"no device in {folder}", fix)


if __name__ == "__main__":
    sys.exit(main())
