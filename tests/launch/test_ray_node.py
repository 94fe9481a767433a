"""Tests the ray command of all nodes: ports of agents, longer waits, and its end with the script that started it."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
import ray_node
from ray._private import node, ray_constants, services, utils
from ray._raylet import persist_port  # type: ignore[attr-defined]  # compiled
from ray.dashboard.modules.job import job_head
from ray.dashboard.subprocesses.module import SubprocessModule

ROOT = Path(__file__).parents[2]

HEAD = """
import time
from ray_node import end_with_parent
end_with_parent()
print("started", flush=True)
time.sleep(60)
"""


def test_a_head_ends_when_the_script_that_started_it_is_killed():
    script = subprocess.Popen(
        ["bash", "-c", 'setsid "$0" -c "$1" & echo $!; wait', sys.executable, HEAD],
        cwd=Path(ray_node.__file__).parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert script.stdout is not None
    head = psutil.Process(int(script.stdout.readline()))
    assert script.stdout.readline() == "started\n"
    script.kill()
    script.wait()
    psutil.wait_procs([head], timeout=20)
    assert not head.is_running() or head.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("failures", "seconds", "is_found"), [(3, 60.0, True), (1, 0.0, False)])
def test_the_command_asks_again_for_a_node_that_has_not_registered(monkeypatch, failures, seconds, is_found):
    left = [RuntimeError("no such node")] * failures

    def get_node(address: str, node_id: str) -> tuple[str, str]:
        if left:
            raise left.pop()
        return address, node_id

    monkeypatch.setattr(ray_node.time, "sleep", lambda _: None)
    ask = ray_node.with_retries(get_node, seconds)
    if is_found:
        assert ask("host:1", "a") == ("host:1", "a")
    else:
        with pytest.raises(RuntimeError, match="no such node"):
            ask("host:1", "a")


@pytest.fixture
def run_command(monkeypatch) -> Callable[..., SimpleNamespace]:
    """Runs the command with a stand-in for Ray's command, and returns what the stand-in got."""
    saw = SimpleNamespace(words=[], get_node=None, start_raylet=None, waits={})

    def main() -> None:
        saw.words = sys.argv[1:]
        saw.get_node, saw.start_raylet = services.get_node, services.start_raylet
        saw.start_ray_process = services.start_ray_process
        saw.waits = {name: os.environ[name] for name in ray_node.WAITS}

    def run(*words: str) -> SimpleNamespace:
        ray_node.main(list(words))
        return saw

    replaced = ["get_node", "start_raylet", "start_ray_process"]
    for module, name in (*((services, name) for name in replaced), (utils, "set_sigterm_handler")):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored after the test
    for name in ray_node.WAITS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["ray_node.py"])
    saw.scripts = SimpleNamespace(main=main)
    monkeypatch.setitem(sys.modules, "ray.scripts.scripts", saw.scripts)
    return run


def test_the_command_replaces_functions_of_ray(run_command):
    original = services.get_node
    saw = run_command("status", "--address", "host:1")
    assert saw.words == ["status", "--address", "host:1"]
    assert saw.get_node is not original
    assert {saw.get_node.__module__, saw.start_raylet.__module__} == {"ray_node"}
    assert "ray._private.services.get_node(" in inspect.getsource(node.Node.__init__)
    assert "ray._private.services.start_raylet(" in inspect.getsource(node.Node.start_raylet)
    assert saw.scripts.get_ray_client_dependency_error()


@pytest.mark.parametrize(("process", "added"), [("dashboard", ["--modules-to-load=JobHead,NodeHead"]), ("raylet", [])])
def test_a_head_for_jobs_starts_no_other_part_of_the_dashboard(run_command, monkeypatch, process, added):
    started = []
    monkeypatch.setattr(services, "start_ray_process", lambda *given, **options: started.append((given, options)))
    run_command("--jobs_only", "start").start_ray_process(["python", "x.py"], process, fate_share=True)
    assert started == [((["python", "x.py", *added], process), {"fate_share": True})]
    assert issubclass(job_head.JobHead, SubprocessModule)
    assert ray_constants.PROCESS_TYPE_DASHBOARD == "dashboard"
    start_dashboard = inspect.getsource(services.start_api_server).replace(" ", "")
    assert "start_ray_process(\ncommand,\nray_constants.PROCESS_TYPE_DASHBOARD," in start_dashboard


def test_other_nodes_start_the_whole_dashboard(run_command):
    assert run_command("start").start_ray_process is services.start_ray_process
    assert services.start_ray_process.__module__ == services.__name__


def test_a_node_that_gets_sigterm_twice_ends(run_command):
    """Ray ends its processes under a lock, for which a second signal handler in the same thread would wait without
    end."""
    run_command("start")
    ended, before = [], signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: object) -> None:
        ended.append(number)
        signal.raise_signal(signal.SIGTERM)

    try:
        utils.set_sigterm_handler(end)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [signal.SIGTERM]
    assert "ray._private.utils.set_sigterm_handler(" in inspect.getsource(node.Node)


def test_the_waits_are_settings_of_ray_and_may_be_set(run_command, monkeypatch):
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "7")
    assert run_command("stop").waits == {**ray_node.WAITS, "RAY_worker_register_timeout_seconds": "7"}
    assert {type(value) for value in ray_node.WAITS.values()} == {str}
    installed = b"".join(
        (Path(ray.__file__).parent / file).read_bytes()
        for file in (
            "_raylet.so",
            "core/src/ray/raylet/raylet",
            "dashboard/subprocesses/handle.py",
            "dashboard/consts.py",
            "_private/services.py",
        )
    )
    for name in ray_node.WAITS:
        assert (name.encode() in installed) or (name.removeprefix("RAY_").encode() in installed), name


def test_each_agent_gets_a_port_of_its_own_unless_it_has_one(run_command):
    words = run_command(
        "start", "--address=host:1", "--metrics-export-port=8080", "--dashboard-agent-grpc-port", "9"
    ).words
    assert words[:5] == ["start", "--address=host:1", "--metrics-export-port=8080", "--dashboard-agent-grpc-port", "9"]
    added = dict(zip(words[5::2], map(int, words[6::2]), strict=True))
    assert set(added) == {"--dashboard-agent-listen-port", "--runtime-env-agent-port"}
    assert len(set(added.values())) == 2
    assert all(20000 <= port < 32768 for port in added.values())


def test_no_agent_gets_a_port_that_the_head_will_use(monkeypatch):
    monkeypatch.setattr(
        ray_node, "free_ports", lambda count: [20001, 20002, 20003, 20004, 20005, 20006, 20007][:count]
    )
    words = ray_node.with_agent_ports(["start", "--port", "20001", "--dashboard-port=20003"])
    assert [int(port) for port in words[5::2]] == [20002, 20004, 20005, 20006]


def test_free_ports_are_printed_one_a_line():
    printed = subprocess.run(
        [sys.executable, "launch/free_ports.py", "3"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    ports = [int(line) for line in printed.splitlines()]
    assert len(set(ports)) == 3
    for port in ports:
        with socket.socket() as one:
            one.bind(("", port))


def test_a_node_is_told_the_port_of_its_agent_before_it_starts(tmp_path):
    told = []

    def start_raylet(address: str, node_id: str, session_dir: str, dashboard_agent_listen_port: int = 0) -> str:
        told.extend(path.name for path in tmp_path.iterdir())
        return f"started {address}"

    start = ray_node.with_agent_port_written(start_raylet, persist_port)
    node_id = "ab" * 28
    assert start("host:1", node_id, session_dir=str(tmp_path), dashboard_agent_listen_port=20001) == "started host:1"
    assert told == [f"dashboard_agent_listen_port_{node_id}"]
    assert (tmp_path / told[0]).read_text() == "20001"
