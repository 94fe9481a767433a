"""Tests that the launch scripts name the run directory that the training command uses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "runs/default"),
        (["--train.seed", "3"], "runs/default"),
        (["--run_dir", "runs/a b"], "runs/a b"),
        (["--run_dir=runs/a"], "runs/a"),
        (["--run_dir", "runs/a", "--train.seed", "3", "--run_dir=runs/b"], "runs/b"),
        (["--run_dir=runs/b", "--run_dir", "--x"], "--x"),
    ],
)
def test_the_last_run_directory_is_used(arguments: list[str], expected: str) -> None:
    script = 'source "$0" && last_run_dir runs/default "$@"'
    command = ["bash", "-euo", "pipefail", "-c", script, str(LAUNCH / "ray_head.sh"), *arguments]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == expected + "\n"
