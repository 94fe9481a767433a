"""Tests the scripts for clusters: wrong input, and the Slurm script on a simulated allocation of two nodes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
needs_environment = pytest.mark.skipif(
    not (ROOT / ".venv").exists(), reason="needs .venv in the project, as bash launch/test.sh makes it"
)


def bash(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | variables
    return subprocess.run(
        ["bash", f"launch/{script}", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=800,
    )  # fmt: skip


@pytest.mark.parametrize(
    "script",
    [
        "submit_unigrpo.sh",
        "submit_unigrpo_multinode.sh",
        "submit_stage.sh",
        "submit_stage_multinode.sh",
        "slurm.sbatch",
    ],
)
def test_every_script_explains_itself_and_names_a_missing_config(script):
    helped = bash(script, "--help")
    assert helped.returncode == 0
    assert "CONFIG [--section.name VALUE ...]" in helped.stdout
    command = [] if "unigrpo" in script else ["pretrain"]
    wrong = bash(script, *command, "nowhere.yaml")
    assert wrong.returncode == 2
    assert "nowhere.yaml: no such file" in wrong.stderr
    without = bash(script)
    assert without.returncode == 2
    assert "CONFIG [--section.name VALUE ...]" in without.stderr


def test_a_command_that_does_not_exist_is_refused():
    done = bash("submit_stage.sh", "evaluate", "launch/configs/tiny/stage1_1.yaml")
    assert done.returncode == 2
    assert "'evaluate'; it must be pretrain, mixcot or unigrpo" in done.stderr


@needs_environment
def test_a_cluster_that_is_not_named_or_does_not_answer_is_an_error():
    config = "launch/configs/tiny_text.yaml"
    done = bash("submit_unigrpo_multinode.sh", config)
    assert (done.returncode, "RAY_ADDRESS is not set" in done.stderr) == (1, True)
    done = bash("submit_unigrpo_multinode.sh", config, RAY_ADDRESS="http://127.0.0.1:1")
    assert (done.returncode, "no job server answers at RAY_ADDRESS=http://127.0.0.1:1" in done.stderr) == (1, True)


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


@needs_environment
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_slurm_script_runs_on_two_nodes(tmp_path):
    """Slurm's commands are stand-ins that run everything on this machine. Ray and the job are real."""
    # Short, because the paths of sockets must be short.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="slurm") as folders:
        done = _run_on_two_nodes(tmp_path, folders)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1


def _run_on_two_nodes(tmp_path: Path, folders: str) -> subprocess.CompletedProcess[str]:
    stand_ins = {
        "scontrol": "echo node1; echo node2",
        "srun": f"""
while [[ "$1" == --* ]]; do shift 2; done
temp=$(mktemp -d {folders}/XXXXXX)  # each node unpacks the working directory into its own
exec "$@" --num-cpus 4 --num-gpus 1 --object-store-memory 100000000 --temp-dir "$temp"
""",
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    small = "--rollout.batch_size 2 --rollout.n_samples_per_prompt 4 --train.num_inner_updates 1 --eval.max_samples 2"
    return bash(
        "slurm.sbatch", "unigrpo", "launch/configs/tiny_text.yaml", *small.split(), "--train.num_steps", "1",
        "--actor.num_nodes", "2", "--run_dir", str(tmp_path / "run"),
        PATH=f"{tmp_path}:{os.environ['PATH']}", RAY_HEAD_IP="127.0.0.1", SLURM_JOB_NODELIST="node[1-2]",
        SLURM_SUBMIT_DIR=str(ROOT), RAY_PORT=free_port(), RAY_DASHBOARD_PORT=free_port(),
    )  # fmt: skip
