"""Tests the Slurm script with stand-ins for Slurm, Ray and the job server: head, time limit, requeue, container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "launch/configs/tiny_text.yaml"

SRUN = """
echo "srun $*" >>"$LOG"
case "$*" in
*hostname*) echo "127.0.0.1 10.9.8.7 fe80::1" ;;
*"${FAILS:-no node} "*) exit 1 ;;
*) exec sleep 60 >/dev/null 2>&1 ;; # does not keep the output of the script open
esac
"""
SCONTROL = """
echo "scontrol $*" >>"$LOG"
case "$*" in
'show hostnames'*) echo node1; echo node2 ;;
'show node '*) echo "NodeName=$3 Arch=x86_64 NodeAddr=${NODE_ADDR:-$3} NodeHostName=$3" ;;
esac
"""
GETENT = """
case "$2" in
10.*) echo "$2 STREAM" ;;
node1) echo "127.0.1.1 STREAM node1" ;;
esac
"""
RAY = """
echo "ray $*" >>"$LOG"
case "$*" in
'job stop'*) touch "$STATE/stopped" ;;
'job status'*) echo "Job 'x' ${JOB_ENDS:-was stopped}" ;;
esac
"""
PYTHON = f"""
case "$*" in
*'job_server.py answers'*) [ "${{NEVER:-}}" != "the job server" ] ;;
*'job_server.py submit'*)
    echo "python $* RESTARTS=${{SLURM_RESTART_COUNT:-0}} STOP=$UNIGRPO_STOP_SECONDS" >>"$LOG"
    touch "$STATE/started"
    [ -z "${{JOB_STATUS:-}}" ] || exit "$JOB_STATUS"
    until [ -e "$STATE/stopped" ]; do sleep 0.05; done
    ;;
'- http'*) [ "${{NEVER:-}}" != "all nodes" ] && [ "$(grep -c ' start ' "$LOG")" -ge 2 ] ;;  # asks Ray for its nodes
*) exec {sys.executable} "$@" ;;
esac
"""

Submit = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def slurm(tmp_path: Path) -> Submit:
    """Returns a function that starts the script as Slurm does. The stand-ins write their arguments to ``log``."""
    folders = {"slurm": {"srun": SRUN, "scontrol": SCONTROL, "getent": GETENT}, "bin": {"ray": RAY, "python": PYTHON}}
    for folder, programs in folders.items():
        (tmp_path / folder).mkdir()
        for name, body in programs.items():
            (tmp_path / folder / name).write_text(f"#!/usr/bin/env bash{body}")
            (tmp_path / folder / name).chmod(0o755)

    def submit(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "UNIGRPO_", "SLURM_"))}
        environment |= {
            "PATH": f"{tmp_path}/slurm:{os.environ['PATH']}", "LOG": f"{tmp_path}/log", "STATE": str(tmp_path),
            "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_CPUS_ON_NODE": "96", "UNIGRPO_INSTALL": "never", "UNIGRPO_VENV": str(tmp_path),
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", "launch/slurm.sbatch", "unigrpo", CONFIG, *arguments],
            cwd=ROOT, env=environment | variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return submit


def log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def wait_for_the_job(tmp_path: Path, job: subprocess.Popen[str]) -> None:
    while not (tmp_path / "started").exists():
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)


@pytest.mark.parametrize("status", ["0", "1"])
def test_the_script_starts_ray_on_all_nodes_and_ends_with_the_status_of_the_run(slurm, tmp_path, status):
    job = slurm("--actor.num_nodes", "2", JOB_STATUS=status)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == int(status), output
    starts = [line for line in log(tmp_path) if " start " in line]
    head, worker = sorted(starts, key=lambda line: "--head" not in line)  # they start at the same time
    common = "--export ALL --cpus-per-task 96 --cpu-bind none --nodelist"
    start = f"{tmp_path}/bin/python {ROOT}/launch/ray_node.py --end_with_parent start --block --disable-usage-stats"
    assert f"{common} node1 {start} --head" in head
    assert "--node-ip-address 10.9.8.7 --port 6379 --dashboard-host 127.0.0.1" in head, "it is 127.0.1.1 of /etc/hosts"
    assert f"{common} node2 {start} --address 10.9.8.7:6379" in worker
    [submitted] = [line for line in log(tmp_path) if "submit" in line]
    assert f"-m unigrpo train --config {CONFIG} --actor.num_nodes 2 RESTARTS=0 STOP=540" in submitted
    assert not [line for line in log(tmp_path) if "requeue" in line]


@pytest.mark.parametrize(
    ("variables", "address"),
    [({"NODE_ADDR": "10.1.1.1"}, "10.1.1.1"), ({"RAY_HEAD_IP": "10.2.2.2", "NODE_ADDR": "10.1.1.1"}, "10.2.2.2")],
)
def test_the_head_has_the_address_that_slurm_or_the_user_gives(slurm, tmp_path, variables, address):
    slurm(JOB_STATUS="0", **variables).communicate(timeout=60)
    assert f"--head --node-ip-address {address} " in "\n".join(log(tmp_path))


def test_near_the_time_limit_the_run_is_stopped_and_the_job_goes_back_into_the_queue(slurm, tmp_path):
    job = slurm()
    wait_for_the_job(tmp_path, job)
    job.send_signal(signal.SIGUSR1)  # Slurm does this with --signal=B:USR1@600
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGUSR1, output
    told = log(tmp_path)
    [stop] = [
        n for n, line in enumerate(told) if line.startswith("ray job stop --address http://127.0.0.1:8265 unigrpo-")
    ]
    [requeue] = [n for n, line in enumerate(told) if line == "scontrol requeue 77"]
    assert stop < requeue
    (tmp_path / "started").unlink()
    (tmp_path / "stopped").unlink()
    again = slurm(SLURM_RESTART_COUNT="1", JOB_STATUS="0")
    again.communicate(timeout=60)
    first, second = [line for line in log(tmp_path) if "submit" in line]
    assert second.endswith("RESTARTS=1 STOP=540")
    assert (
        first.partition(" -- ")[2].partition(" RESTARTS")[0] == second.partition(" -- ")[2].partition(" RESTARTS")[0]
    ), "another command, which may not resume the run"


def test_a_job_that_is_preempted_before_the_run_begins_goes_back_into_the_queue(slurm, tmp_path):
    job = slurm(NEVER="all nodes")
    while not (tmp_path / "log").exists() or sum(" start " in line for line in log(tmp_path)) < 2:
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.02)
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGUSR1, output
    assert "scontrol requeue 77" in log(tmp_path)
    assert not [line for line in log(tmp_path) if "submit" in line]


def test_a_run_that_ends_while_it_is_stopped_is_not_put_into_the_queue(slurm, tmp_path):
    job = slurm(JOB_ENDS="succeeded")
    wait_for_the_job(tmp_path, job)
    job.send_signal(signal.SIGUSR1)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 0, output
    assert "scontrol requeue 77" not in log(tmp_path)


def test_sigterm_stops_the_run_without_putting_it_into_the_queue(slurm, tmp_path):
    job = slurm()
    wait_for_the_job(tmp_path, job)
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 143, output
    assert [line for line in log(tmp_path) if line.startswith("ray job stop ")]
    assert "scontrol requeue 77" not in log(tmp_path)


def test_with_a_container_ray_and_the_run_are_in_it(slurm, tmp_path):
    slurm(JOB_STATUS="0", UNIGRPO_CONTAINER="unigrpo.sqsh", UNIGRPO_CONTAINER_MOUNTS="/shared:/shared").communicate(
        timeout=60
    )
    starts = [line for line in log(tmp_path) if " start " in line]
    assert len(starts) == 2
    container = f"--container-image unigrpo.sqsh --container-mounts /shared:/shared,{ROOT}/launch:{ROOT}/launch"
    start = f"{container} /opt/venv/bin/python {ROOT}/launch/ray_node.py --end_with_parent start --block"
    assert all(start in line for line in starts)
    [submitted] = [line for line in log(tmp_path) if "submit" in line]
    assert "-- /opt/venv/bin/python -m unigrpo train" in submitted


def test_without_mounts_a_container_sees_this_folder(slurm, tmp_path):
    slurm(JOB_STATUS="0", UNIGRPO_CONTAINER="unigrpo.sqsh").communicate(timeout=60)
    starts = [line for line in log(tmp_path) if " start " in line]
    assert len(starts) == 2
    assert all(f"--container-mounts {ROOT}:{ROOT} /opt/venv/bin/python" in line for line in starts)


@pytest.mark.parametrize(("fails", "what"), [("node1", "the job server"), ("node2", "all nodes")])
def test_a_node_whose_ray_ends_ends_the_job_at_once(slurm, fails, what):
    job = slurm(FAILS=fails, NEVER=what)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 1, output
    assert f"error: Ray on {fails} ended; its messages are above" in output


def test_nodes_that_do_not_start_end_the_job_after_a_while(slurm):
    job = slurm(NEVER="all nodes", RAY_START_SECONDS="1")
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 1, output
    assert "error: Ray on all nodes did not start within 1 s; check that the nodes reach 10.9.8.7:6379" in output


def test_the_script_asks_slurm_for_what_a_requeue_needs():
    options = [
        line.split()[1] for line in (ROOT / "launch" / "slurm.sbatch").read_text().splitlines() if "#SBATCH" in line
    ]
    assert {"--requeue", "--signal=B:USR1@600", "--mem=0", "--open-mode=append"} <= set(options)
