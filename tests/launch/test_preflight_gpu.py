"""Tests the check of a GPU node, with stand-ins for nvidia-smi and for the interpreter that imports torch."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import preflight_gpu as preflight
import pytest

ROOT = Path(__file__).parent.parent.parent
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a node of two idle H100 without problems. Files of its folder contain the output of its programs."""
    (tmp_path / "gpus").write_text("NVIDIA H100 80GB HBM3, 580.65.06, Default, 4\n" * 2)
    (tmp_path / "torch").write_text(json.dumps({"torch": "2.13.0+cu130", "cuda": "13.0", "names": ["H100"] * 2}))
    (tmp_path / "all_reduce").write_text(json.dumps({"ranks": 2, "is_right": True, "gb_per_s": 300.0}))
    (tmp_path / "error").touch()
    fail = f"[ -s {tmp_path}/error ] && cat {tmp_path}/error >&2 && exit 1; cat {tmp_path}"
    stand_in(tmp_path / "nvidia-smi", f"cat {tmp_path}/gpus")
    stand_in(tmp_path / "python", f'case "$1" in -c) {fail}/torch ;; *) {fail}/all_reduce ;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64e9, 0, 900e9))
    monkeypatch.setattr(preflight.resource, "getrlimit", lambda _: (65536, 65536))
    return tmp_path


def stand_in(path: Path, command: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{command}\n")
    path.chmod(0o755)


def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["preflight_gpu.py", *arguments])
    return preflight.main(), capsys.readouterr().out


def test_a_node_that_is_ready(node, monkeypatch, capsys):
    status, output = check(monkeypatch, capsys, "--shared", str(node))
    assert status == 0
    assert "FIX" not in output
    names = [line.removeprefix("ok  ").split(":")[0] for line in output.splitlines()[:-2]]
    assert names == [
        "driver", "compute mode", "GPU memory", "torch", "all-reduce", "shared memory", "open files", "disk",
        f"shared folder {node}",
    ]  # fmt: skip
    assert "300 GB/s on the bus over 2 GPUs" in output
    assert output.endswith("nothing to fix\n")


@pytest.mark.parametrize(
    ("file", "content", "problem", "fix"),
    [
        ("gpus", "", "driver: nvidia-smi lists no GPU", "install the NVIDIA driver 580"),
        ("gpus", "H100, 535.104.05, Default, 4\n" * 2, "driver: 535.104.05", "update it to 580 or later"),
        (
            "gpus",
            "H100, 580.65, Exclusive_Process, 4\n" * 2,
            "compute mode: Exclusive_Process",
            "nvidia-smi -c DEFAULT",
        ),
        ("gpus", "H100, 580.65, Default, 40000\n" * 2, "GPU 1 has 40000 MiB in use", "end the processes"),
        ("torch", '{"torch": "2.13.0+cpu", "cuda": null, "names": []}', "on 0 of 2 GPUs", "this is a CPU build"),
        ("torch", '{"torch": "2.13.0", "cuda": "13.0", "names": ["H100"]}', "on 1 of 2 GPUs", "CUDA_VISIBLE_DEVICES"),
        (
            "error",
            "Traceback\nAssertionError: GPU 1 multiplies matrices wrongly",
            "GPU 1 multiplies",
            "check this GPU and the driver",
        ),
        ("error", "ModuleNotFoundError: No module named 'torch'", "No module named", "installs it"),
        ("error", "NCCL error: unhandled system error", "all-reduce: failed\n    NCCL error", "NCCL_DEBUG=INFO"),
        ("all_reduce", '{"ranks": 2, "is_right": true, "gb_per_s": 3.2}', "3 GB/s on the bus", "expected 30 or more"),
        ("all_reduce", '{"ranks": 2, "is_right": false, "gb_per_s": 300}', "300 GB/s", "the sum was wrong"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(node, monkeypatch, capsys, file, content, problem, fix):
    (node / file).write_text(content)
    status, output = check(monkeypatch, capsys)
    assert status == 1
    before, _, after = output.partition(problem)
    assert (before + "X").splitlines()[-1].startswith("FIX")
    assert fix in after


def test_too_little_disk_space_is_named(node, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1e9, 0, 100e9))
    monkeypatch.setattr(preflight.resource, "getrlimit", lambda _: (1024, 4096))
    status, output = check(monkeypatch, capsys, "--run_dir", str(node / "runs" / "first"), "--disk_gb", "452")
    assert status == 1
    assert "FIX shared memory: 1 GB in /dev/shm" in output
    assert (
        "FIX open files: 1024 allowed\n    -> ulimit -n 8192 before Ray is started (the hard limit is 4096)" in output
    )
    assert f"FIX disk: 100 GB free at {node}\n" in output
    assert output.endswith("3 to fix\n")


def test_nodes_must_share_a_file_system_and_see_each_other(node, monkeypatch):
    assert "is not a writable folder" in preflight.check_shared(node / "absent", 2).text
    stand_in(node / "stat", "echo ext2/ext3")
    assert preflight.check_shared(node, 1).fix == ""
    assert "is local to this node (ext2/ext3)" in preflight.check_shared(node, 2).text
    stand_in(node / "stat", "echo nfs")
    alone = preflight.check_shared(node, 2, seconds=0.0)
    assert (alone.text, bool(alone.fix)) == ("1 of 2 nodes seen (nfs)", True)
    (node / ".unigrpo-preflight-other").touch()
    assert preflight.check_shared(node, 2, seconds=0.0) == preflight.Finding(
        f"shared folder {node}", "2 of 2 nodes seen (nfs)"
    )
    assert [path.name for path in node.glob(".unigrpo-*")] == [".unigrpo-preflight-other"]


def test_nodes_of_a_cluster_need_rdma(node):
    assert preflight.check_rdma(node / "infiniband").fix
    (node / "infiniband").mkdir()
    (node / "infiniband" / "uverbs0").touch()
    assert preflight.check_rdma(node / "infiniband").fix == ""


def test_several_nodes_connect_at_an_address(node, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        check(monkeypatch, capsys, "--nodes", "2")
    assert "--nodes needs --rendezvous" in capsys.readouterr().err
    (node / "all_reduce").unlink()
    stand_in(node / "python", f'echo "$@" >{node}/called')
    finding = preflight.check_bandwidth(8, 2, "node1:29400")
    assert finding.text == "measured; the first node prints the result"
    words = (node / "called").read_text().split()
    assert words[:2] == ["-m", "torch.distributed.run"]
    assert words[2:10] == shlex.split("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint node1:29400 --nproc-per-node 8")


@pytest.mark.slow
def test_the_sum_over_ranks_is_right_and_its_bandwidth_is_computed_for_a_ring():
    """Two ranks with gloo on this machine start as on a GPU node."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "launch" / "all_reduce_bandwidth.py"), "--megabytes", "2"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["ranks"], result["is_right"]) == (2, True)
    assert 0 < result["gb_per_s"] < 1000


def test_the_script_runs_without_the_environment(tmp_path):
    """It is the first command on a new node."""
    stand_in(tmp_path / "nvidia-smi", "exit 6")
    done = subprocess.run(
        ["bash", "launch/preflight_gpu.sh", "--disk_gb", "0"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "UNIGRPO_VENV": str(tmp_path)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "FIX driver: nvidia-smi lists no GPU" in done.stdout
