"""Tests the installation: its messages, one environment for each kind of machine, and the lock of the requirements."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
FILES = ["launch/install.sh", "requirements-cpu.txt", "requirements-cpu.lock", "pyproject.toml"]
# This stand-in for the interpreter of the environment records its calls, and fails if a file says so.
INTERPRETER = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
-c*) exit 0 ;;
"-m uv pip install"*) action=uv ;;
"-m pip install"*) action=pip ;;
-\\ *) action=check ;;
*) exit 0 ;;
esac
echo "$action DS_ACCELERATOR=${DS_ACCELERATOR:-} DS_BUILD_OPS=${DS_BUILD_OPS:-}: $*" >>"$CALLS.settings"
for line in $(seq 200); do echo "$action says $line"; done
! grep -qe "$action" "$(dirname "$CALLS")/failing" 2>/dev/null
"""


class Machine:
    """A copy of the project's installation with a stand-in for Python, on a machine with or without a GPU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = folder / "project" / ".venv"
        self.calls = folder / "calls"
        for name in FILES:
            (folder / "project" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "project" / name)
        for name in ("gpu", "cpu"):
            (folder / name).mkdir()
        self.program(folder / "gpu" / "nvidia-smi", 'case "$*" in -L) echo "GPU 0: H100" ;; *) echo 535.1 ;; esac')
        self.program(folder / "cpu" / "nvidia-smi", "echo 'No devices were found'; exit 6")
        self.program(self.environment / "bin" / "python", INTERPRETER)

    def program(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.startswith("#!") else f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def install(self, kind: str, command: str = ":", **variables: str) -> subprocess.CompletedProcess[str]:
        """Sources the script as the launch scripts do, on a machine of this kind."""
        return self.run(kind, f"source launch/install.sh; {command}", **variables)

    def run(self, kind: str, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs lines of bash on a machine of this kind."""
        unset = {"UNIGRPO_DEVICE", "UNIGRPO_VENV", "UNIGRPO_PYTHON", "UNIGRPO_INSTALL"}
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        environment |= {"PATH": f"{self.folder / kind}:{os.environ['PATH']}", "CALLS": str(self.calls)} | variables
        return subprocess.run(
            ["bash", "-c", f"set -euo pipefail; {script}"],
            cwd=self.folder / "project", env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def installations(self) -> list[str]:
        """The calls of pip and uv so far that install something; forgets them."""
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return [call for call in calls if re.match("-m (uv pip|pip) install", call)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_an_installation_prints_a_line_for_each_step_and_keeps_all_messages_in_a_file(machine):
    done = machine.install("cpu")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 8
    assert "says" not in done.stdout + done.stderr
    assert "uv says 200" in (machine.environment / "install.log").read_text()
    torch, *others = machine.installations()[1:]
    assert "--no-deps torch==2.13.0+cpu" in torch
    assert [call.split(" --python ")[1].split(" ", 1)[1] for call in others] == [
        "--no-deps -r requirements-cpu.lock",
        "--no-deps --no-build-isolation --editable .",
    ]
    assert machine.install("cpu").stdout == ""
    assert machine.installations() == []


def test_a_failed_step_shows_the_end_of_the_log_and_is_done_again(machine):
    (machine.folder / "failing").write_text("uv\npip")
    done = machine.install("cpu")
    assert done.returncode == 1
    assert "pip says 200" in done.stderr
    assert "pip says 100\n" not in done.stderr
    assert "the last lines of .venv/install.log are above" in done.stderr
    (machine.folder / "failing").unlink()
    machine.installations()
    assert machine.install("cpu").returncode == 0
    assert len(machine.installations()) == 4


def test_packages_that_uv_cannot_install_are_installed_by_pip(machine):
    (machine.folder / "failing").write_text("uv")
    done = machine.install("cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("uv could not install it (see .venv/install.log); trying pip") == 2
    by_pip = [call for call in machine.installations() if call.startswith("-m pip")]
    assert by_pip[2].endswith("--no-deps -r requirements-cpu.lock")


def test_without_a_cpu_build_of_torch_the_default_build_is_installed_with_a_message(machine):
    machine.program(
        machine.environment / "bin" / "python",
        INTERPRETER.replace("done\n", 'done\ncase "$*" in *+cpu* | *--torch-backend*) exit 1 ;; esac\n'),
    )
    done = machine.install("cpu")
    assert done.returncode == 0, done.stderr
    assert "warning: no CPU build of torch was found" in done.stdout
    assert machine.installations()[3].endswith(" torch==2.13.0")


@pytest.mark.parametrize("failing", ["", "uv"])
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_deepspeed_is_built_without_a_cuda_toolkit(machine, kind, failing):
    """The setup of DeepSpeed needs nvcc on a machine with a GPU, unless variables select CPUs and no compilation."""
    if failing:
        (machine.folder / "failing").write_text(failing)
    assert machine.install(kind).returncode == 0
    settings = machine.calls.with_suffix(".settings").read_text().splitlines()
    of_lock = [line for line in settings if "requirements-cpu.lock" in line]
    assert [line.partition(": ")[0] for line in of_lock] == [
        f"{tool} DS_ACCELERATOR=cpu DS_BUILD_OPS=0" for tool in (["uv", "pip"] if failing else ["uv"])
    ]


@pytest.mark.parametrize(("cuda", "own", "other"), [("'13.0'", "gpu", "cpu"), ("None", "cpu", "gpu")])
def test_an_environment_that_somebody_else_made_has_the_kind_of_its_torch(machine, tmp_path, cuda, own, other):
    """A machine of the other kind does not replace torch in an environment that others use."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "torch" / "version.py").write_text(f"from typing import Optional\ncuda: Optional[str] = {cuda}\n")
    asks_torch = f'-c*version.py*) PYTHONPATH={tmp_path} exec {sys.executable} "$@" ;;\n-c*)'
    machine.program(machine.environment / "bin" / "python", INTERPRETER.replace("-c*)", asks_torch))
    done = machine.install(other)
    assert (done.returncode, machine.installations()) == (1, [])
    assert f".venv was installed for a {own} machine and this is a {other} machine" in done.stderr
    assert machine.install(own).returncode == 0
    assert len(machine.installations()) == 4


def test_a_gpu_machine_gets_torch_with_cuda_and_the_same_lock(machine):
    assert machine.install("gpu").returncode == 0
    _, torch, lock, _ = machine.installations()
    assert torch.endswith(" torch==2.13.0")
    assert "--no-deps" not in torch
    assert lock.endswith("--no-deps -r requirements-cpu.lock")


def test_a_machine_without_a_gpu_uses_the_environment_of_gpu_machines_but_does_not_change_it(machine):
    machine.install("gpu")
    machine.installations()
    done = machine.install("cpu")
    assert (done.returncode, machine.installations()) == (0, [])
    with (machine.folder / "project" / "requirements-cpu.lock").open("a") as lock:
        lock.write("# changed\n")
    done = machine.install("cpu")
    assert (done.returncode, machine.installations()) == (1, [])
    assert ".venv was installed for a gpu machine and this is a cpu machine" in done.stderr
    assert "UNIGRPO_VENV=.venv-cpu" in done.stderr


def test_a_gpu_machine_refuses_the_environment_of_a_cpu_machine(machine):
    machine.install("cpu")
    machine.installations()
    done = machine.install("gpu")
    assert (done.returncode, machine.installations()) == (1, [])
    assert ".venv was installed for a cpu machine and this is a gpu machine" in done.stderr
    assert "UNIGRPO_VENV=.venv-gpu" in done.stderr
    assert machine.install("gpu", UNIGRPO_DEVICE="cpu").returncode == 0


def test_a_gpu_machine_that_is_to_use_its_cpus_refuses_torch_that_would_use_the_gpu(machine):
    machine.install("gpu")
    machine.installations()
    done = machine.install("gpu", UNIGRPO_DEVICE="cpu")
    assert (done.returncode, machine.installations()) == (1, [])
    assert "UNIGRPO_VENV=.venv-cpu" in done.stderr


def test_each_kind_of_machine_can_have_an_environment_of_its_own(machine):
    machine.install("cpu")
    shutil.copytree(machine.environment / "bin", machine.environment.with_name(".venv-gpu") / "bin")
    done = machine.install("gpu", 'echo "python $PYTHON"', UNIGRPO_VENV=".venv-gpu")
    assert done.returncode == 0, done.stderr
    assert f"python {machine.environment.with_name('.venv-gpu')}/bin/python" in done.stdout
    assert machine.install("cpu").stdout == ""


def test_the_kind_of_machine_is_cpu_or_gpu(machine):
    done = machine.install("cpu", UNIGRPO_DEVICE="cuda")
    assert done.returncode == 1
    assert "UNIGRPO_DEVICE is 'cuda'; it must be cpu or gpu" in done.stderr
    assert machine.installations() == []


@pytest.mark.parametrize(
    ("machine_kind", "kind", "cuda", "available", "message"),
    [
        ("gpu", "gpu", "13.0", True, ""),
        ("gpu", "gpu", "13.0", False, "built for CUDA 13.0, and the driver of this machine is 535.1"),
        ("gpu", "gpu", None, False, "is a CPU build; remove that folder"),
        ("cpu", "gpu", "13.0", False, ""),  # an image for GPU machines is built on a machine without a GPU
        ("cpu", "cpu", None, False, ""),
    ],
)
def test_a_torch_that_cannot_use_the_gpu_is_an_error(machine, machine_kind, kind, cuda, available, message):
    machine.install(machine_kind, UNIGRPO_DEVICE=kind)
    (machine.folder / "torch.py").write_text(f"""
__version__ = "2.13.0"
class version: cuda = {cuda!r}
class cuda:
    def is_available(): return {available}
""")
    command = f"PYTHON={sys.executable}; check_torch {kind}"
    done = machine.install(machine_kind, command, UNIGRPO_DEVICE=kind, PYTHONPATH=str(machine.folder))
    assert done.returncode == bool(message)
    assert message in done.stderr


def locked() -> dict[str, list[Requirement]]:
    """Returns the lines of the lock by package name. A package may have a version for each Python version."""
    packages: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements-cpu.lock").read_text().splitlines():
        if line and line[0] not in " #":
            requirement = Requirement(line.removesuffix("\\").strip())
            packages.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return packages


def test_the_lock_satisfies_the_requirements():
    """This test fails if requirements-cpu.txt is changed and the lock is not written again."""
    lines = (ROOT / "requirements-cpu.txt").read_text().splitlines()
    asked = [Requirement(line) for line in lines if line and not line.startswith("#")]
    project = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert project is not None
    required = [Requirement(text) for text in re.findall('"(.*)"', project.group(1))]
    assert {str(one) for one in required} <= {str(one) for one in asked}, "pyproject.toml requires other versions"
    packages = locked()
    assert len(packages) > 150
    for requirement in asked:
        if requirement.name == "torch":
            continue
        for line in packages[canonicalize_name(requirement.name)]:
            (pin,) = line.specifier
            assert pin.operator == "==" and requirement.specifier.contains(pin.version), line


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_the_lock_has_one_version_of_each_package_for_each_python_and_none_for_cuda(python):
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    for name, lines in locked().items():
        fitting = [line for line in lines if line.marker is None or line.marker.evaluate(environment)]
        assert len(fitting) <= 1, name
        assert not re.match("nvidia|cuda|triton|torch$|vllm|flash", name)


def test_the_same_torch_is_installed_locked_and_required():
    files = {name: (ROOT / name).read_text() for name in [*FILES, "requirements.txt"]}
    del files["requirements-cpu.lock"]
    versions = {name: set(re.findall(r"torch==([\d.]+)", text)) for name, text in files.items()}
    assert versions == {name: {"2.13.0"} for name in files}
    assert 'name = "torch"\nversion = "2.13.0"' in files["pyproject.toml"]


def test_a_command_that_needs_only_ray_changes_no_environment(machine):
    """A submission from a login node uses the environment of a running job."""
    done = machine.install("cpu", UNIGRPO_INSTALL="never")
    assert (done.returncode, done.stdout, machine.installations()) == (0, "", [])
    machine.program(machine.environment / "bin" / "python", "exit 1")
    done = machine.install("cpu", UNIGRPO_INSTALL="never")
    assert done.returncode == 1
    assert re.search(r"\.venv has no Ray.*pip install 'ray\[default\]==[\d.]+'", done.stderr)


def test_a_submission_to_a_cluster_installs_nothing(machine):
    launch = machine.folder / "project" / "launch"
    for name in ("submit.sh", "ray_head.sh"):
        shutil.copy(ROOT / "launch" / name, launch / name)
    done = machine.run("cpu", "source launch/submit.sh; submit_to_cluster", RAY_ADDRESS="")
    assert done.returncode == 1
    assert "RAY_ADDRESS is not set" in done.stderr
    assert machine.installations() == []


def test_cpus_are_counted_whatever_number_of_threads_is_set(machine):
    done = machine.install("cpu", "count_cpus", OMP_NUM_THREADS="1", OMP_THREAD_LIMIT="1")
    assert int(done.stdout.split()[-1]) == len(os.sched_getaffinity(0)), done.stderr


@pytest.mark.parametrize("name", ["a b", "a$b", "a(b", "a'b", "a]b", "a\tb"])
def test_an_environment_path_that_ray_does_not_support_is_refused_before_the_installation(machine, name):
    done = machine.install("cpu", UNIGRPO_VENV=f"/nowhere/{name}")
    assert done.returncode == 1
    assert (
        f"the path /nowhere/{name}/bin/python has a space or another character that a shell interprets" in done.stderr
    )
    assert machine.installations() == []


def test_letters_of_other_alphabets_are_no_special_characters(machine):
    shutil.move(machine.environment, machine.folder / "ünï_cödé-1.2+3")
    done = machine.install("cpu", UNIGRPO_VENV=str(machine.folder / "ünï_cödé-1.2+3"), LC_ALL="C")
    assert done.returncode == 0, done.stderr
