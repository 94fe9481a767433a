"""The ray command of local heads waits for a node that is slow to register."""

from __future__ import annotations

import inspect
import sys
from types import SimpleNamespace

import pytest
import ray_without_client
from ray._private import node, services


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
    original = services.get_node
    monkeypatch.setattr(services, "get_node", original)
    asked = []
    scripts = SimpleNamespace(main=lambda: asked.append(services.get_node))
    monkeypatch.setitem(sys.modules, "ray.scripts.scripts", scripts)
    monkeypatch.setattr("ray.scripts.scripts", scripts, raising=False)
    ray_without_client.main()
    assert asked[0] is not original
    assert "ray._private.services.get_node(" in inspect.getsource(node.Node.__init__)
    assert scripts.get_ray_client_dependency_error()
