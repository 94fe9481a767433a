"""A local Ray head with a job server, started as by the launch scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class RayHead:
    """A Ray head that was started by the functions of the quickstart."""

    job_server: str
    """URL of its job server."""
    gcs: str
    """Address to which a driver connects."""
    pid: int
    """Process of the head, which leads the process group of all its processes."""
    variables: dict[str, str]
    """Environment variables with which a process is allowed to connect."""

    @property
    def last_words(self) -> str:
        """Returns the last lines that the head and its processes wrote."""
        folder = Path(self.variables["RAY_AUTH_TOKEN_PATH"]).parent
        logs = [folder.with_name(f"{folder.name}.log"), *sorted(folder.glob("session_latest/logs/*.out"))]
        logs += [folder / "session_latest" / "logs" / "dashboard.log"]
        ends = {log.name: log.read_text(errors="replace").splitlines()[-15:] for log in logs if log.is_file()}
        return "\n".join(f"--- {name}\n" + "\n".join(lines) for name, lines in ends.items() if lines)

    @property
    def driver_environment(self) -> dict[str, str]:
        """Returns the environment of a driver that connects to the head."""
        return {**os.environ, **self.variables, "RAY_ADDRESS": self.gcs}

    @property
    def submitter_environment(self) -> dict[str, str]:
        """Returns the environment of a script that submits jobs to the head."""
        return {**os.environ, **self.variables, "RAY_ADDRESS": self.job_server, "PYTHON": sys.executable}


@pytest.fixture
def ray_head(shared_ray_head: RayHead) -> RayHead:
    """Returns the head of all tests, and fails with its last lines if it has ended."""
    if not psutil.pid_exists(shared_ray_head.pid):
        pytest.fail(f"the Ray head ended by itself\n{shared_ray_head.last_words}")
    return shared_ray_head


@pytest.fixture(scope="package")
def shared_ray_head() -> Iterator[RayHead]:
    """Starts and stops a local Ray head with a job server by the functions of the quickstart."""
    script = """
    set -euo pipefail
    say() { echo "$*"; }; fail() { echo "error: $*" >&2; exit 1; }; has_gpu() { false; }; count_cpus() { nproc; }
    source launch/ray_head.sh
    start_local_ray
    env | grep -E '^(RAY_AUTH|RAY_ENABLE)'
    echo "READY $RAY_ADDRESS $gcs_address $ray_pid"
    read -r _
    """
    environment = {**os.environ, "PYTHON": sys.executable}
    shell = subprocess.Popen(
        ["bash", "-c", script], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    variables = {}
    for line in shell.stdout:
        if line.startswith("READY"):
            _, job_server, gcs, pid = line.split()
            break
        if line.startswith("RAY_"):
            name, _, value = line.strip().partition("=")
            variables[name] = value
    else:
        pytest.fail("the Ray head did not start")
    yield RayHead(job_server, gcs, int(pid), variables)
    shell.communicate("stop\n", timeout=60)
    left = subprocess.run(["pgrep", "-f", gcs], capture_output=True, text=True, check=False).stdout
    assert left == "", "processes of the stopped Ray head are still there"
