"""Tests that the RayJob has fields of KubeRay, with and without the optional ones, and that its parts are
consistent."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RAY_JOB = json.loads((ROOT / "tests" / "fixtures" / "rayjob_schema.json").read_text())
TEXT = (ROOT / "launch" / "kuberay.yaml").read_text()
OPTIONAL = re.compile(r"^(\s*)#\+", flags=re.MULTILINE)


def manifest(*, is_whole: bool) -> dict[str, Any]:
    """Returns the RayJob with or without its optional fields."""
    return yaml.safe_load(OPTIONAL.sub(r"\1", TEXT) if is_whole else TEXT)


@pytest.mark.parametrize("is_whole", [False, True])
def test_every_field_is_one_of_a_ray_job(is_whole):
    job = manifest(is_whole=is_whole)
    jsonschema.validate(job, RAY_JOB)
    for wrong in ({"ttlSeconds": 1}, {"backoffLimit": "2"}, {"submissionMode": "Batch"}, {"activeDeadlineSeconds": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**job, "spec": {**job["spec"], **wrong}}, RAY_JOB)


def test_the_optional_fields_are_the_secrets_rdma_and_what_a_site_needs():
    plain, whole = manifest(is_whole=False), manifest(is_whole=True)
    worker = whole["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    [container] = worker["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["HF_HOME"]["value"].startswith("/shared/")
    assert {name for name, variable in variables.items() if "valueFrom" in variable} == {"HF_TOKEN", "WANDB_API_KEY"}
    assert container["securityContext"]["capabilities"]["add"] == ["IPC_LOCK"]
    assert any(name.startswith("rdma/") for name in container["resources"]["limits"])
    assert worker["hostNetwork"]
    assert not re.search("secretKeyRef|rdma|hostNetwork", yaml.safe_dump(plain))


def test_the_job_names_files_of_this_project_and_as_many_nodes_as_it_starts():
    job = manifest(is_whole=False)
    words = job["spec"]["entrypoint"].split()
    assert (ROOT / words[words.index("--config") + 1]).is_file()
    cluster = job["spec"]["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    assert int(words[words.index("--actor.num_nodes") + 1]) == workers["replicas"]
    environment = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
    assert "working_dir" in environment
    assert all(isinstance(value, str) for value in environment["env_vars"].values())
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_the_nodes_start_as_elsewhere_with_the_options_of_kuberay(tmp_path):
    job = manifest(is_whole=False)
    assert job["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        [container] = group["template"]["spec"]["containers"]
        made = "ray start --head --block  --dashboard-agent-listen-port=52365 --num-gpus=8 "
        variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBERAY_GEN_RAY_START_CMD": made}
        command = [word.replace("65536", "256") for word in (*container["command"], *container["args"])]
        words = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.split()
        assert words == ["/opt/unigrpo/launch/ray_node.py", *made.split()[1:]]
        assert (ROOT / Path(words[0]).relative_to("/opt/unigrpo")).is_file()
