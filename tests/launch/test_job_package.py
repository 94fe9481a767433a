"""Tests which files are sent to a cluster with a job: files that git lists, every module, and no large files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import job_package
import job_server
import pytest
import ray.job_submission
from job_package import job_files, project_environment

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.relative_to(ROOT) for top in ("unigrpo", "rewards") for path in (ROOT / top).rglob("*.py"))


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Returns a checkout with two committed files, next to a data set of 30 MB."""
    folder, data = tmp_path / "project", tmp_path / "elsewhere"
    for path in (folder / "unigrpo" / "runs", data):
        path.mkdir(parents=True)
    (data / "train.jsonl").write_bytes(b"x" * 30_000_000)
    (folder / "unigrpo" / "runs" / "metrics.py").write_text("")
    (folder / "README.md").write_text("")
    (folder / ".gitignore").write_text("/runs/\n/models/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def shipped(project: Path) -> list[str]:
    return [str(path) for path in job_files(project)]


COMMITTED = ["README.md", "unigrpo/runs/metrics.py"]


def test_a_data_set_in_the_folder_is_not_sent(project, capsys):
    (project / "data").symlink_to(project.parent / "elsewhere")
    (project / "one.jsonl").symlink_to(project.parent / "elsewhere" / "train.jsonl")
    (project / "images").mkdir()
    (project / "images" / "a.png").write_bytes(b"x")
    (project / "big.jsonl").write_bytes(b"x" * 2_000_000)
    (project / "models").mkdir()
    (project / "models" / "config.json").write_text("{}")
    assert shipped(project) == COMMITTED
    message = capsys.readouterr().err
    assert "4 files are not sent" in message
    for name in ("data", "one.jsonl", "images/a.png", "big.jsonl"):
        assert name in message
    assert "models" not in message, "ignored folders are not mentioned"


def test_the_data_folders_of_the_guides_are_not_sent_even_if_their_files_are_small(project, capsys):
    """A data set of images has many small files, which a limit on the size of a file does not exclude."""
    (project / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    for name in ("data/rl/gsm8k.jsonl", "data/clevr/scenes/0.json", "models/a/config.json", "runs/a/config.yaml"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("{}")
    (project / "unigrpo" / "data").mkdir()
    (project / "unigrpo" / "data" / "new.py").write_text("")
    assert shipped(project) == ["README.md", "unigrpo/data/new.py", "unigrpo/runs/metrics.py"]
    assert capsys.readouterr().err == ""


def test_new_configs_and_rewards_and_changes_are_sent(project, tmp_path):
    (project / "my.yaml").write_text("a: 1")
    (project / "rewards").mkdir()
    (project / "rewards" / "mine.py").write_text("")
    (project / "README.md").write_text("changed")
    assert shipped(project) == ["README.md", "my.yaml", "rewards/mine.py", "unigrpo/runs/metrics.py"]
    environment = project_environment(project, tmp_path / "package")
    assert environment["working_dir"] == str(tmp_path / "package")
    assert (tmp_path / "package" / "README.md").read_text() == "changed"
    assert environment["env_vars"]["UNIGRPO_COMMIT"] == git(project, "rev-parse", "HEAD").strip()
    assert environment["env_vars"]["UNIGRPO_SUBMIT_DIR"] == str(project)


def test_deleted_files_are_no_error_and_committed_files_that_are_ignored_are_sent(project, tmp_path):
    (project / "README.md").unlink()
    (project / "models").mkdir()
    (project / "models" / "tiny.safetensors").write_bytes(b"x")
    git(project, "add", "--force", "models")
    project_environment(project, tmp_path / "package")
    found = sorted(str(path.relative_to(tmp_path / "package")) for path in (tmp_path / "package").rglob("*.*"))
    assert found == ["models/tiny.safetensors", "unigrpo/runs/metrics.py"], (
        "with .gitignore, Ray would leave out models"
    )


def test_a_package_that_is_too_large_is_an_error_before_the_upload(project, tmp_path, monkeypatch):
    monkeypatch.setattr(job_package, "LARGEST_PACKAGE", 3)
    (project / "README.md").write_text("longer")
    with pytest.raises(ValueError, match=r"the files of the job have 0 MiB, .* list them in \.gitignore"):
        project_environment(project, tmp_path / "package")


@pytest.mark.parametrize("around", ["no git", "another checkout"])
def test_without_git_the_folders_of_the_project_are_sent(tmp_path, capsys, around):
    if around == "another checkout":
        git(tmp_path, "init", "--quiet")
    project = tmp_path / "unpacked"
    for name in ("unigrpo/a.py", "unigrpo/__pycache__/a.pyc", "launch/configs/b.yaml", "data/c.jsonl", "README.md"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("")
    assert shipped(project) == ["README.md", "launch/configs/b.yaml", "unigrpo/a.py"]
    assert f"{project} is no git checkout" in capsys.readouterr().err
    assert project_environment(project, tmp_path / "package")["env_vars"]["UNIGRPO_COMMIT"] == "unknown"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout of the project")
def test_every_module_is_sent_and_no_environment_or_run():
    files = job_files(ROOT)
    assert set(MODULES) <= set(files)
    assert not [file for file in files if file.parts[0].startswith((".venv", "runs", "out", "site"))]
    assert sum(os.path.getsize(ROOT / file) for file in files) < 40e6


def test_every_folder_with_modules_is_a_package():
    # A folder without __init__.py can be imported from a checkout, but is missing in a wheel.
    folders = {path.parent for path in MODULES}
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_a_submission_uploads_the_package_and_removes_it(project, monkeypatch):
    """A stand-in for Ray's client reads the folder as Ray does for the upload."""
    seen: dict[str, Any] = {}

    class Client:
        def __init__(self, address: str) -> None:
            seen["address"] = address

        def submit_job(self, *, runtime_env: dict[str, Any], **options: Any) -> None:
            package = Path(runtime_env["working_dir"])
            seen["files"] = sorted(str(path.relative_to(package)) for path in package.rglob("*") if path.is_file())
            seen.update(options, package=package, variables=runtime_env["env_vars"])

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", Client)
    monkeypatch.chdir(project)
    options = ["--address", "http://head:8265", "--job_id", "a", "--no_wait", "--ship_project"]
    monkeypatch.setattr(sys, "argv", ["job_server.py", "submit", *options, "--", "echo", "$x"])
    assert job_server.main() == 0
    assert (seen["address"], seen["submission_id"], seen["entrypoint"]) == ("http://head:8265", "a", "echo '$x'")
    assert seen["files"] == COMMITTED
    assert seen["variables"]["UNIGRPO_SUBMIT_DIR"] == str(project)
    assert not seen["package"].exists()
