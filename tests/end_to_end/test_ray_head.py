"""Tests who can reach a local Ray head, and how launch scripts pass arguments, output, status and Ctrl-C of a job."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parent.parent.parent
ARGUMENTS = [
    "a b", "$HOME", "${HOME}", "$(touch touched)", "`touch touched`", "x;touch touched", "a&touch touched", "a|b",
    ">out", "[text]", "*", "?", "{a,b}", "~", '"q"', "'", "\\", "a\\nb", "\n", "", "#", "!1", "%d", "--", "ü", "$5",
]  # fmt: skip
"""Arguments that a shell would change or run if they were not quoted."""
PRINTS_ARGUMENTS = """
import json, sys
print("ARGUMENTS", json.dumps(sys.argv[1:]))
sys.exit(3)
"""
RUNS_A_MODULE = """
import runpy, sys
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""
"""Stand-in for the ``unigrpo`` command, whose subcommands are modules of the folder."""
SLOW_AGENTS = """
import sys, time
if any(word.endswith(("dashboard/agent.py", "runtime_env/agent/main.py")) for word in sys.orig_argv):
    time.sleep(25)
"""
TICKS = """
import time
for i in range(600):
    print("tick", i)
    time.sleep(0.2)
"""

pytestmark = pytest.mark.ray


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Returns a repository with the launch scripts, a command that prints its arguments, and files that patterns
    match."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    (tmp_path / "unigrpo").mkdir()
    (tmp_path / "unigrpo" / "__init__.py").write_text("")
    (tmp_path / "unigrpo" / "__main__.py").write_text(RUNS_A_MODULE)
    (tmp_path / "show.py").write_text(PRINTS_ARGUMENTS)
    (tmp_path / "t").write_text("")
    (tmp_path / "ticks.py").write_text(TICKS)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "files that a job ships"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def job_script(*command: str) -> list[str]:
    script = """
    set -euo pipefail
    say() { echo "$*"; }; fail() { echo "error: $*" >&2; exit 1; }
    source launch/ray_head.sh
    submit_job "$@"
    """
    return ["bash", "-c", script, "submit", *command]


def printed_arguments(output: str) -> list[str]:
    [line] = {line for line in output.splitlines() if line.startswith("ARGUMENTS ")}  # Ray may show a line twice
    return json.loads(line.removeprefix("ARGUMENTS "))


def job_info(ray_head: Any, job_id: str) -> dict[str, Any]:
    """Returns the information of the job server about a job."""
    token = Path(ray_head.variables["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    url = f"{ray_head.job_server}/api/jobs/{job_id}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def agent(ray_head) -> str:
    """Returns the address of the agent of the head, which accepts jobs for the job server and starts last."""
    session = Path(ray_head.variables["RAY_AUTH_TOKEN_PATH"]).with_name("session_latest")
    for _ in range(1800):  # the start takes minutes on a busy machine
        for written in session.glob("dashboard_agent_listen_port_*"):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", int(written.read_text())), timeout=1).close()
                return f"http://127.0.0.1:{written.read_text()}"
        time.sleep(0.1)
    pytest.fail("the agent did not start")


@pytest.mark.usefixtures("agent")
def test_a_local_head_starts_only_what_jobs_need_of_the_dashboard(ray_head):
    commands = [" ".join(process.cmdline()) for process in psutil.Process(ray_head.pid).children(recursive=True)]
    parts = {command.split()[0] for command in commands if command.startswith("ray-dashboard-")}
    assert parts == {"ray-dashboard-JobHead-0", "ray-dashboard-NodeHead-0"}


@pytest.mark.usefixtures("agent")
def test_no_port_of_a_local_head_is_reachable_from_outside(ray_head):
    listening: list[tuple[str, str, int]] = []
    for process in [psutil.Process(ray_head.pid), *psutil.Process(ray_head.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # Ray starts and ends workers at any time
            command = " ".join(process.cmdline())
            assert "ray.util.client" not in command, "the head has a client server"
            listening += [
                (process.name(), connection.laddr.ip, connection.laddr.port)
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
    assert len(listening) >= 8, "the head's own ports were not found"
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    assert [one for one in listening if one[1] not in loopback] == []


@pytest.mark.parametrize(("header", "status"), [({}, 401), ({"Authorization": "Bearer " + "0" * 64}, 403)])
def test_a_job_is_refused_without_the_token_of_the_head(ray_head, agent, tmp_path, header, status):
    body = json.dumps({"entrypoint": f"touch {tmp_path / 'touched'}"}).encode()
    for url in (f"{ray_head.job_server}/api/jobs/", f"{agent}/api/job_agent/jobs/"):
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **header})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == status
    assert not (tmp_path / "touched").exists()


def test_the_error_says_that_the_head_requires_a_token(ray_head):
    environment = {k: v for k, v in ray_head.submitter_environment.items() if not k.startswith("RAY_AUTH")}
    asked = [sys.executable, "launch/job_server.py", "answers", ray_head.job_server]
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "set RAY_AUTH_MODE=token" in done.stdout
    done = subprocess.run(asked, cwd=ROOT, env=ray_head.submitter_environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_job_gets_every_argument_as_it_was_typed_and_fails_with_status_1(ray_head, project):
    done = subprocess.run(
        job_script("show", *ARGUMENTS),
        cwd=project, env=ray_head.submitter_environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert printed_arguments(done.stdout) == ARGUMENTS, done.stdout + done.stderr
    assert not (project / "touched").exists()
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2].endswith("failed")
    assert done.stdout.splitlines()[-1].endswith("exit code 3")


@pytest.mark.slow
def test_a_job_on_a_cluster_gets_every_argument_as_it_was_typed(ray_head, project):
    interpreter = project / "an interpreter"
    interpreter.write_text(f"#!{sys.executable}\n{PRINTS_ARGUMENTS}")
    interpreter.chmod(0o755)
    script = """
    set -euo pipefail
    say() { echo "$*"; }; fail() { echo "error: $*" >&2; exit 1; }
    source launch/submit.sh
    source() { [ "$1" = launch/install.sh ] || builtin source "$@"; }
    read_submission unigrpo "$@"
    submit_to_cluster
    """
    environment = {**ray_head.submitter_environment, "UNIGRPO_CLUSTER_PYTHON": str(interpreter)}
    done = subprocess.run(
        ["bash", "-c", script, "submit", "launch/configs/tiny_text.yaml", *ARGUMENTS],
        cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [follow] = [line for line in done.stdout.splitlines() if line.startswith("follow:")]
    command = shlex.split(follow.removeprefix("follow:"))
    logs = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)
    module = ["-m", "unigrpo", "train", "--config", "launch/configs/tiny_text.yaml"]
    assert printed_arguments(logs.stdout) == [*module, *ARGUMENTS]


def test_output_streams_and_ctrl_c_stops_the_job(ray_head, project):
    """Ctrl-C sends SIGINT to the whole process group."""
    shell = subprocess.Popen(
        job_script("ticks"), cwd=project, env=ray_head.submitter_environment, stdout=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert shell.stdout is not None
    job_id = ""
    for line in shell.stdout:
        if line.startswith("job "):
            job_id = line.split()[1]
        if line.startswith("tick 3"):
            break
    os.killpg(shell.pid, signal.SIGINT)
    shell.communicate(timeout=60)
    assert shell.returncode == 130
    assert job_info(ray_head, job_id)["status"] == "STOPPED"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("role", ["gcs_server", "raylet", "ray::JobSupervisor"])
def test_a_killed_part_of_a_local_head_ends_the_script_with_one_error_and_leaves_nothing(project, role):
    script = """
    set -euo pipefail
    say() { echo "$*"; }; fail() { echo "error: $*" >&2; exit 1; }; has_gpu() { false; }; count_cpus() { nproc; }
    source launch/ray_head.sh
    start_local_ray
    echo "HEAD $ray_pid $gcs_address"
    submit_job ticks
    """
    environment = {**os.environ, "PYTHON": sys.executable}
    shell = subprocess.Popen(
        ["bash", "-c", script], cwd=project, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert shell.stdout is not None
    head = address = ""
    for line in shell.stdout:
        if line.startswith("HEAD"):
            _, head, address = line.split()
        if line.startswith("tick 3"):
            break
    parts = psutil.Process(int(head)).children(recursive=True)
    [victim] = [part for part in parts if part.name().startswith(role)]
    victim.kill()
    output, errors = shell.communicate(timeout=120)
    assert shell.returncode == 1, output + errors
    if role == "ray::JobSupervisor":
        assert "failed\nJob supervisor actor died" in output
    else:
        [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert "was lost before its end" in line
        assert "the local Ray head ended by itself; its last lines are above" in output
        assert f"{role} [exit code=-9]" in errors
        assert " INFO " not in errors
    assert subprocess.run(["pgrep", "-f", address], capture_output=True, text=True, check=False).stdout == ""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_local_head_waits_for_agents_that_start_slowly(project):
    """By default, a node ends after 15 s if its agents have not reported their ports, as on a busy machine."""
    (project / "site").mkdir()
    (project / "site" / "sitecustomize.py").write_text(SLOW_AGENTS)
    script = """
    set -euo pipefail
    say() { echo "$*"; }; fail() { echo "error: $*" >&2; exit 1; }; has_gpu() { false; }; count_cpus() { nproc; }
    source launch/ray_head.sh
    start_local_ray
    submit_job show arrived
    """
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(project / "site")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=380
    )
    assert printed_arguments(done.stdout) == ["arrived"], done.stdout + done.stderr


@pytest.mark.slow
def test_the_judge_gets_every_argument_as_it_was_typed(ray_head, project):
    """vLLM is a stand-in that the script finds and the job does not. The job fails, and the test reads its command."""
    (project / "vllm").mkdir()
    (project / "vllm" / "__init__.py").write_text("")
    script = """
    source() { [ "$1" != launch/install.sh ] && builtin source "$@" || true; }
    say() { echo "$*"; }; fail() { echo "error: $*" >&2; exit 1; }
    export -f source say fail
    exec bash launch/serve_judge.sh "$@"
    """
    judge = {"JUDGE_PYTHON": sys.executable, "PYTHONPATH": str(project), "JUDGE_GPUS": "0", "JUDGE_WAIT": "60"}
    done = subprocess.run(
        ["bash", "-c", script, "judge", "a judge", *ARGUMENTS],
        cwd=project, env={**ray_head.submitter_environment, **judge}, capture_output=True, text=True, check=False,
        timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    [job_id] = [word for word in done.stderr.split() if word.startswith("judge-")]
    command = shlex.split(job_info(ray_head, job_id)["entrypoint"])
    assert command[command.index("--model") + 1] == "a judge"
    assert command[-len(ARGUMENTS) :] == ARGUMENTS
