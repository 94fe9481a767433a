"""Checks out an earlier commit, and runs a script with the code of that commit or of this tree."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASELINE = "55aacb9"
"""Commit with which results are compared."""


def commit_parser(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser of a command line that names the earlier commit."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default=BASELINE, help="the earlier commit")
    return parser


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Yields a temporary folder with the files of a commit."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def environment(tree: Path) -> dict[str, str]:
    """Returns the environment of a process that imports this tree and computes in one thread."""
    return {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}


class TreeWorker:
    """A process that imports a tree and answers each line of its input with a line.

    Args:
        tree: The tree.
        script: The script that it runs.
        folder: Working directory, from which it reads models and prompts.
        arguments: Arguments of the script.
    """

    def __init__(self, tree: Path, script: Path, folder: Path, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            cwd=folder,
            env=environment(tree),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> str:
        """Returns the next answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("next\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a process ended without a result; see its messages above")
        return line

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def ask_in_turn(workers: list[TreeWorker], rounds: int) -> list[list[str]]:
    """Returns the answers of all workers in each round, which are asked one after the other, and closes the
    workers."""
    try:
        return [[worker.ask() for worker in workers] for _ in range(rounds)]
    finally:
        for worker in workers:
            worker.close()
