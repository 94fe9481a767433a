"""The files that are sent to a cluster with a job: those of this project that git lists."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LARGEST_PACKAGE = 512 * 2**20
"""Largest size in bytes that Ray accepts as the working directory of a job."""
LARGEST_NEW_FILE = 2**20
"""Largest size in bytes of an uncommitted file: configs and rewards are smaller, data and weights are larger."""
NEW_SUFFIXES = (".json", ".jsonl", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml")
"""Suffixes of uncommitted files that are sent."""
PROJECT = ("LICENSE", "README.md", "examples", "launch", "pyproject.toml", "rewards", "unigrpo")
"""Files and folders that are sent if git does not know this folder, such as an unpacked archive."""


def project_environment(root: Path, package: Path) -> dict[str, Any]:
    """Copies the files of a job into an empty folder, and returns the runtime environment for Ray.

    Args:
        root: The project.
        package: The folder, which must live until the job is submitted.

    Raises:
        ValueError: The files are more than Ray takes.
    """
    size = copy_files(root, package, job_files(root))
    if size > LARGEST_PACKAGE:
        raise ValueError(
            f"the files of the job have {size / 2**20:.0f} MiB, and Ray accepts {LARGEST_PACKAGE // 2**20}; move data "
            "and weights out of this folder, or list them in .gitignore"
        )
    commit = _git(root, "rev-parse", "HEAD")
    # No keys here: Ray shows a job's environment to everybody who may look at it. Export them where Ray is started.
    variables = {
        "UNIGRPO_COMMIT": commit[0].strip() if commit else "unknown",
        "UNIGRPO_SUBMIT_DIR": str(root),
        "PYTHONUNBUFFERED": "1",
        # How long Ray waits for a job that it stops: the job finishes its step and saves a checkpoint.
        "RAY_JOB_STOP_WAIT_TIME_S": os.environ.get("UNIGRPO_STOP_SECONDS", "30"),
    }
    return {"working_dir": str(package), "env_vars": variables}


def job_files(root: Path) -> list[Path]:
    """Returns the files of the project that are sent, relative to it: committed files, and small new text files.

    Links, folders that git ignores, and large or binary files that are not committed stay behind: a link to a data set
    would bring the data set along. What is left behind is said on standard error, but for what git ignores.
    """
    committed = _git(root, "ls-files", "-z", "--cached")
    if committed is None:
        sys.stderr.write(f"{root} is no git checkout: {', '.join(PROJECT)} are sent with the job\n")
        return [path for name in PROJECT for path in _files_below(root, root / name)]
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard") or []
    left_behind = [name for name in new if not _is_small_text(root / name)]
    if left_behind:
        shown = ", ".join(sorted(left_behind)[:5]) + (", ..." if len(left_behind) > 5 else "")
        sys.stderr.write(
            f"{len(left_behind)} files are not sent, because they are links, or uncommitted and large or binary: "
            f"{shown}\n"
        )
    names = [*committed, *(name for name in new if name not in set(left_behind))]
    # .gitignore would make Ray leave out what is committed in spite of it.
    return sorted({Path(name) for name in names if Path(name).name != ".gitignore" and _is_file(root / name)})


def copy_files(root: Path, package: Path, files: Sequence[Path]) -> int:
    """Copies files of the project into a folder, in their folders. Returns their bytes."""
    size = 0
    for file in files:
        target = package / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / file, target)
        size += target.stat().st_size
    return size


def _git(root: Path, *arguments: str) -> list[str] | None:
    """Returns the names that a git command prints, or None without git or a checkout of this folder."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        top = subprocess.run(
            ["git", "rev-parse", "--show-toplevel"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    if not os.path.samefile(top.stdout.strip(), root):
        return None  # a folder inside another project's checkout
    return [name for name in done.stdout.split("\0") if name]


def _is_file(path: Path) -> bool:
    """Whether a path is an existing file and not a link; a file that git lists may have been deleted."""
    return path.is_file() and not path.is_symlink()


def _is_small_text(path: Path) -> bool:
    return _is_file(path) and path.suffix in NEW_SUFFIXES and path.stat().st_size <= LARGEST_NEW_FILE


def _files_below(root: Path, top: Path) -> list[Path]:
    if _is_file(top):
        return [top.relative_to(root)]
    found = (path for path in sorted(top.rglob("*")) if _is_file(path) and "__pycache__" not in path.parts)
    return [path.relative_to(root) for path in found]
