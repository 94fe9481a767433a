"""Tests runs that are ended or hindered from outside.

The causes are signals in a step, a save and an evaluation, a deleted run directory, a full disk, and an environment
without a home, a folder for temporary files or enough open files. One line says what happened, no process remains, and
all checkpoints are complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 900
"""Limit of the seconds of a run on a busy machine, on which its start takes minutes."""
SMALL = [
    "launch/configs/tiny_text.yaml", "--rollout.batch_size", "2", "--rollout.n_samples_per_prompt", "4",
    "--rollout.text.max_new_tokens", "16", "--rollout.text.num_denoising_steps", "4",
    "--rollout.text.block_length", "8", "--train.micro_batch_size", "8", "--train.num_inner_updates", "1",
    "--eval.dataset", "", "--logger.tensorboard", "false",
]  # fmt: skip
LONG_EVALUATION = [
    "--eval.dataset", "examples/tiny/prompts/test.jsonl", "--eval.max_samples", "180",
    "--eval.n_samples_per_prompt", "16",
]  # fmt: skip
GOES_ON = ["--ckpt.load_enable", "true", "--ckpt.save_steps", "0"]
LONG = ["--train.num_steps", "500", "--ckpt.save_steps", "1"]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3 * LIMIT)]


@dataclass
class Run:
    """A run in a separate process group."""

    process: subprocess.Popen[bytes]
    folder: Path
    output: Path
    head: int
    """Process of the Ray head that has its workers."""

    def wait_until(self, condition: Callable[[], object]) -> None:
        ending = time.monotonic() + LIMIT
        while not condition():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < ending, self.output.read_text()
            time.sleep(0.01)

    def has_made_step(self, step: int) -> bool:
        metrics = self.folder / "metrics.jsonl"
        return metrics.exists() and f'"step": {step},' in metrics.read_text()

    def is_saving(self) -> bool:
        return bool(list((self.folder / "checkpoints").glob(".writing_*")))

    def is_evaluating(self) -> bool:
        return "evaluating on" in self.output.read_text()

    def actors(self, role: str = "") -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.head).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith("ray::") and f"{role}Actor" in process.name():
                    found.append(process)
        return found

    def last_line(self) -> str:
        """Waits for the end of the run, checks that no actor remains, and returns the last line."""
        self.process.wait(LIMIT)
        _, left = psutil.wait_procs(self.actors(), timeout=30)
        assert not left, left
        return self.output.read_text().splitlines()[-1]

    def finished_steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints."""
        saved = sorted((self.folder / "checkpoints").glob("step_*/complete.json"))
        return [int(path.parent.name.removeprefix("step_")) for path in saved]


@pytest.fixture
def start(ray_head: Any, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Yields a function that starts a run on the head of all tests."""
    started: list[Run] = []

    def run(*flags: str, folder: Path = tmp_path / "run") -> Run:
        output = tmp_path / f"output_{len(started)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "unigrpo", "train", "--config", *SMALL, "--run_dir", str(folder), *flags],
                cwd=ROOT, env=ray_head.driver_environment, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        started.append(Run(process, folder, output, ray_head.pid))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("moment", ["step", "save", "evaluation"])
def test_a_signal_ends_a_run_with_one_line_and_its_status(start, number, moment):
    run = start(*LONG, *(LONG_EVALUATION if moment == "evaluation" else []))
    if moment == "evaluation":
        run.wait_until(run.is_evaluating)
    else:
        run.wait_until(lambda: run.has_made_step(2))
    if moment == "save":
        run.wait_until(run.is_saving)
        for policy in run.actors("Policy"):  # so that the save lasts
            policy.suspend()
    os.killpg(run.process.pid, number)
    if moment == "save":
        time.sleep(2)
        for policy in run.actors("Policy"):
            policy.resume()
    line = run.last_line()
    assert run.process.returncode == 128 + number, line
    steps = run.finished_steps()
    if moment != "evaluation" and number == signal.SIGTERM:
        assert line == f"stopped by SIGTERM after step {steps[-1]} of 500; the same command resumes from there"
    else:
        ended = f"stopped by {number.name}; the same command resumes from the last checkpoint, if there is one"
        assert line == ended
    assert "Traceback" not in run.output.read_text()
    if moment != "evaluation":
        again = start(*GOES_ON, "--train.num_steps", str(steps[-1] + 1))
        again.last_line()
        assert again.process.returncode == 0, again.output.read_text()
        assert f"step_{steps[-1]:08d}, {steps[-1]} steps finished" in again.output.read_text()
        rows = [json.loads(row)["step"] for row in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert rows == list(range(1, steps[-1] + 2))


def test_without_the_file_of_a_rank_the_previous_checkpoint_is_used(start):
    run = start("--train.num_steps", "2", "--ckpt.save_steps", "1")
    run.last_line()
    [lost] = (run.folder / "checkpoints" / "step_00000002").rglob("*optim_states.pt")
    lost.unlink()
    again = start(*GOES_ON, "--train.num_steps", "3")
    again.last_line()
    output = again.output.read_text()
    assert again.process.returncode == 0, output
    assert f"{lost.name} is missing" in output
    assert "step_00000001, 1 steps finished" in output


def test_a_deleted_run_directory_ends_the_run_with_one_error(start, tmp_path):
    run = start(*LONG)
    run.wait_until(lambda: run.has_made_step(2))
    # The rename is atomic, so that the run cannot write into the folder in between.
    shutil.rmtree(run.folder.rename(tmp_path / "deleted"))
    line = run.last_line()
    assert run.process.returncode == 1, line
    assert line.startswith("error: ")
    assert "was deleted or moved during the run; start again, and leave it where it is" in line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yields a folder on a disk of 60 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_run_with_one_error_and_no_incomplete_checkpoint(start, small_disk):
    run = start(*LONG, folder=small_disk / "run")
    run.wait_until(lambda: run.has_made_step(2))
    with contextlib.suppress(OSError), (small_disk / "filling").open("wb", buffering=0) as file:
        while file.write(bytes(2**16)):
            pass
    line = run.last_line()
    assert run.process.returncode == 1, line
    assert line.startswith("error: ")
    assert "is full" in line
    assert "free some space, then start the same command again, which resumes from the last checkpoint" in line
    assert not run.is_saving()
    (small_disk / "filling").unlink()
    [*_, last] = run.finished_steps()
    again = start(*GOES_ON, "--train.num_steps", str(last + 1), folder=small_disk / "run")
    again.last_line()
    assert again.process.returncode == 0, again.output.read_text()


@pytest.mark.skipif(
    not (ROOT / ".venv").exists(), reason="needs .venv in the project, as bash launch/test.sh makes it"
)
def test_a_run_needs_no_home_no_folder_for_temporary_files_and_few_open_files(tmp_path):
    """The run starts a local head, which has the same environment."""
    flags = [*SMALL, "--train.num_steps", "1", "--run_dir", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": "/proc", "TMPDIR": "/proc", "UNIGRPO_INSTALL": "never"}
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 256 && exec bash launch/submit_unigrpo.sh "$@"', "submit", *flags],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["steps"] == 1
