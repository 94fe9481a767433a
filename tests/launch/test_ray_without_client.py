"""The ray command of local heads waits for a node that is slow to register, and ends with its script."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray_without_client
from ray._private import node, services

HEAD = """
import time
from ray_without_client import end_with_parent
end_with_parent()
print("started", flush=True)
time.sleep(60)
"""


def test_a_head_ends_when_the_script_that_started_it_is_killed():
    script = subprocess.Popen(
        ["bash", "-c", 'setsid "$0" -c "$1" & echo $!; wait', sys.executable, HEAD],
        cwd=Path(ray_without_client.__file__).parent, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert script.stdout is not None
    head = psutil.Process(int(script.stdout.readline()))
    assert script.stdout.readline() == "started\n"
    script.kill()
    script.wait()
    psutil.wait_procs([head], timeout=20)
    assert not head.is_running() or head.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("failures", "seconds", "is_found"), [(3, 60.0, True), (1, 0.0, False)])
def test_a_node_that_has_not_registered_is_asked_for_again(monkeypatch, failures, seconds, is_found):
    left = [RuntimeError("no such node")] * failures

    def get_node(address: str, node_id: str) -> tuple[str, str]:
        if left:
            raise left.pop()
        return address, node_id

    monkeypatch.setattr(ray_without_client.time, "sleep", lambda _: None)
    ask = ray_without_client.patient(get_node, seconds)
    if is_found:
        assert ask("host:1", "a") == ("host:1", "a")
    else:
        with pytest.raises(RuntimeError, match="no such node"):
            ask("host:1", "a")


def test_the_command_runs_with_the_patient_question_that_ray_asks(monkeypatch):
    monkeypatch.setattr(ray_without_client, "end_with_parent", lambda: None)
    original = services.get_node
    for name in ("get_node", "start_raylet"):  # are put back after the test
        monkeypatch.setattr(services, name, getattr(services, name))
    asked = []
    scripts = SimpleNamespace(main=lambda: asked.append(services.get_node))
    monkeypatch.setitem(sys.modules, "ray.scripts.scripts", scripts)
    monkeypatch.setattr("ray.scripts.scripts", scripts, raising=False)
    ray_without_client.main()
    assert asked[0] is not original
    assert {services.get_node.__module__, services.start_raylet.__module__} == {"ray_without_client"}
    assert "ray._private.services.get_node(" in inspect.getsource(node.Node.__init__)
    assert "ray._private.services.start_raylet(" in inspect.getsource(node.Node.start_raylet)
    assert scripts.get_ray_client_dependency_error()


def test_a_node_is_told_the_port_of_its_agent_before_it_starts(tmp_path):
    told = []

    def start_raylet(address: str, node_id: str, session_dir: str, dashboard_agent_listen_port: int = 0) -> str:
        told.extend(path.name for path in tmp_path.iterdir())
        return f"started {address}"

    start = ray_without_client.told_before(start_raylet)
    node_id = "ab" * 28
    assert start("host:1", node_id, session_dir=str(tmp_path), dashboard_agent_listen_port=20001) == "started host:1"
    assert told == [f"dashboard_agent_listen_port_{node_id}"]
    assert (tmp_path / told[0]).read_text() == "20001"
