"""Tests the container images: the files that are copied into them, and the order of their layers."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent


def instructions(name: str) -> list[tuple[str, str]]:
    """Returns the instructions of a Dockerfile, each with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "launch" / name).read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines) if word]


def is_shipped(path: str) -> bool:
    """Returns whether .dockerignore includes a path of the project; the last rule that matches decides."""
    parts = path.split("/")
    prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    shipped = True
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = rule.lstrip("!").removeprefix("**/")
        names = parts if "**/" in rule else prefixes
        if rule and not rule.startswith("#") and any(fnmatch(name, pattern) for name in names):
            shipped = rule.startswith("!")
    return shipped


@pytest.mark.parametrize("path", ["unigrpo/runs/metrics.py", "launch/install.sh", "examples/tiny/mixcot/config.json",
                                  "rewards/base.py", "requirements-cpu.lock", "README.md"])  # fmt: skip
def test_the_project_is_copied_into_the_image(path):
    assert (ROOT / path).is_file()
    assert is_shipped(path)


@pytest.mark.parametrize("path", [".venv/bin/python", ".venv-judge/x", "runs/first/policy/model.safetensors",
                                  ".git/HEAD", "data/a.jsonl", "tests/a.py", "rewards/__pycache__/a.pyc"])  # fmt: skip
def test_large_and_private_files_are_not_copied_into_the_image(path):
    assert not is_shipped(path)


@pytest.mark.parametrize("name", ["Dockerfile", "judge.Dockerfile"])
def test_every_file_that_is_copied_exists_and_is_shipped(name):
    copied = [word for kind, rest in instructions(name) if kind == "COPY" for word in rest.split()[:-1] if word != "."]
    assert copied
    for path in copied:
        assert (ROOT / path).is_file(), path
        assert is_shipped(path), path


def test_a_change_of_the_code_does_not_install_requirements_again():
    """The layer of the installation is before that of the code, and copies only the files that install.sh reads."""
    steps = instructions("Dockerfile")
    installed = next(i for i, (kind, rest) in enumerate(steps) if kind == "RUN" and "launch/install.sh" in rest)
    code = steps.index(("COPY", ". ."))
    assert installed < code
    copied = {word for kind, rest in steps[:installed] if kind == "COPY" for word in rest.split()[:-1]}
    script = (ROOT / "launch" / "install.sh").read_text()
    assert set(re.findall(r"\b(?:requirements-cpu\.\w+|pyproject\.toml)\b", script)) <= copied
    assert not [path for path in copied if path.endswith((".md", ".yaml"))]


def test_the_base_has_the_cuda_version_of_torch_and_the_headers_for_compilation():
    steps = dict(instructions("Dockerfile"))
    assert re.fullmatch(r"nvidia/cuda:13\.0\.\d+-devel-ubuntu24\.04", steps["FROM"])
    packages = instructions("Dockerfile")[1][1].split()
    assert {"gcc", "python3-dev", "python3-venv", "libibverbs1", "git", "wget"} <= set(packages)


def test_the_judge_has_an_environment_besides_that_of_the_project():
    judge = " ".join(rest for _, rest in instructions("judge.Dockerfile"))
    assert "requirements-judge.txt" in judge and "JUDGE_PYTHON=/opt/judge/bin/python" in judge
    for name in ("requirements-cpu.lock", "requirements.txt", "launch/Dockerfile"):
        assert not re.search(r"^vllm|^flash.attn|install.*(vllm|flash-attn)", (ROOT / name).read_text(), re.MULTILINE)


def test_kuberay_uses_the_image_as_it_is_built():
    job = (ROOT / "launch" / "kuberay.yaml").read_text()
    assert set(re.findall(r"image: (\S+)", job)) == {"unigrpo:latest"}
    assert "--tag unigrpo:latest" in (ROOT / "launch" / "Dockerfile").read_text()
    folder = dict(instructions("Dockerfile"))["WORKDIR"]
    assert yaml.safe_load(yaml.safe_load(job)["spec"]["runtimeEnvYAML"])["working_dir"] == folder


@pytest.mark.parametrize("name", ["Dockerfile", "judge.Dockerfile"])
def test_the_steps_are_commands_that_a_shell_can_read(name):
    for kind, rest in instructions(name):
        if kind == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
