"""Tests the training command as users start it: jobs on a local Ray job server, kill and resume, and wrong input."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from builders import untimed
from safetensors.torch import load_file

from unigrpo.cli.main import main
from unigrpo.distributed import cluster

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    "--config", "launch/configs/tiny_text.yaml", "--rollout.batch_size", "2", "--rollout.n_samples_per_prompt", "4",
    "--train.micro_batch_size", "8", "--train.num_inner_updates", "2", "--eval.max_samples", "4",
    "--eval.n_samples_per_prompt", "1", "--actor.adam.lr", "1e-3",
]  # fmt: skip
STEPS = ["--train.num_steps", "5", "--ckpt.save_steps", "2", "--train.seed", "5", "--algo.kl.init_coef", "0"]

LIMIT = 900
"""Limit of the seconds of a run on a busy machine, on which its start takes minutes."""

pytestmark = pytest.mark.ray


def train(environment: dict[str, str], *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unigrpo", "train", *SMALL, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT,
        **options,
    )  # fmt: skip


def submit(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    script = 'set -euo pipefail; source launch/ray_head.sh; submit_job train "$@"'
    command = ["bash", "-c", script, "submit", *SMALL, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT
    )


def untimed_rows(folder: Path) -> list[dict[str, float]]:
    return [untimed(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def submitted(shared_ray_head, tmp_path_factory):
    """Returns the output of a submitted job, and its run directory."""
    run = tmp_path_factory.mktemp("submitted") / "run"
    return submit(shared_ray_head.submitter_environment, "--run_dir", str(run), *STEPS), run


def test_a_submitted_job_writes_a_complete_run_directory(submitted):
    done, run = submitted
    assert done.returncode == 0, done.stdout + done.stderr
    assert "held out" in done.stdout
    assert "step 5 of 5" in done.stdout + done.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 5
    assert summary["wall_seconds"] > 0
    assert set(summary["eval"]) == {"before", "after"}
    assert [row["step"] for row in untimed_rows(run)] == [0, 1, 2, 3, 4, 5]
    config = (run / "config.yaml").read_text()
    assert config.startswith("# commit: ")
    assert "seed: 5" in config
    for name in (
        "report.html",
        "reward_curve.png",
        "rollouts.jsonl",
        "policy/model.safetensors",
        "policy/config.json",
    ):
        assert (run / name).stat().st_size > 0, name
    assert list((run / "tensorboard").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.skipif(
    not (ROOT / ".venv").exists(), reason="needs .venv in the project, as bash launch/test.sh makes it"
)
def test_a_dry_run_on_a_cluster_trains_nothing_and_can_be_followed_as_printed(ray_head, tmp_path):
    command = ["bash", "launch/submit_unigrpo_multinode.sh", SMALL[1], *SMALL[2:], "--dry_run"]
    options = {"env": ray_head.submitter_environment, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(
        [*command, "--actor.num_gpus_per_node", "2", "--run_dir", str(tmp_path / "run")],
        cwd=ROOT, timeout=LIMIT, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    commands = dict(re.findall(r"(follow|status|stop): +(ray .*|/.*)", done.stdout))
    followed = subprocess.run(commands["follow"].split(), timeout=LIMIT, **options)
    for part in (
        "339,168 parameters",
        "2 x math_answer, 0.5 x cot_format",
        "GB on each policy GPU",
        "nothing was trained",
    ):
        assert part in followed.stdout, followed.stdout + followed.stderr
    status = subprocess.run(commands["status"].split(), timeout=60, **options)
    assert "succeeded" in status.stdout
    assert not (tmp_path / "run").exists()
    assert commands["stop"].split()[-1] in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT)
def test_a_script_whose_job_fails_has_another_status_than_0(ray_head, tmp_path):
    done = submit(
        ray_head.submitter_environment, "--run_dir", str(tmp_path / "run"), "--rollout.n_samples_per_prompt", "1"
    )
    assert done.returncode != 0
    assert "use at least 2" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT)
def test_after_kill_9_in_mid_step_a_resumed_run_has_the_same_metrics_and_weights(ray_head, submitted, tmp_path):
    whole = submitted[1]
    killed = subprocess.Popen(
        [sys.executable, "-m", "unigrpo", "train", *SMALL, "--run_dir", str(tmp_path / "killed"), *STEPS],
        cwd=ROOT, env=ray_head.driver_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    wait_for_step(tmp_path / "killed" / "metrics.jsonl", 3)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert untimed_rows(tmp_path / "killed")[-1]["step"] < 5, "it was killed too late"

    again = train(ray_head.driver_environment, "--run_dir", str(tmp_path / "killed"), *STEPS)
    assert again.returncode == 0, again.stderr
    assert untimed_rows(tmp_path / "killed") == untimed_rows(whole)
    one, two = (load_file(run / "policy" / "model.safetensors") for run in (whole, tmp_path / "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT)
@pytest.mark.parametrize("actor", ["PolicyActor", "ReferenceActor", "RolloutActor", "RewardActor"])
def test_an_actor_killed_in_mid_step_ends_the_job_clearly_or_is_replaced(ray_head, tmp_path, actor):
    unified = [
        sys.executable, "-m", "unigrpo", "train", "--config", "launch/configs/tiny/unigrpo.yaml",
        "--rollout.batch_size", "4", "--rollout.n_samples_per_prompt", "4", "--eval.max_samples", "4",
        "--train.num_steps", "6", "--ckpt.save_steps", "1", "--algo.kl.init_coef", "0.01",
        "--rollout.num_workers", "1" if actor == "RolloutActor" else "0",
    ]  # fmt: skip
    options = {"cwd": ROOT, "env": ray_head.driver_environment, "text": True}
    whole = subprocess.run([*unified, "--run_dir", str(tmp_path / "whole")], **options, check=False, timeout=LIMIT)
    assert whole.returncode == 0

    command = [*unified, "--run_dir", str(tmp_path / "killed")]
    job = subprocess.Popen(command, **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for_step(tmp_path / "killed" / "metrics.jsonl", 2)
    victims = actors(ray_head, actor)
    assert victims, f"the job's exit code is {job.poll()}"
    victims[0].kill()
    output, _ = job.communicate(timeout=LIMIT)
    if actor == "RewardActor":
        assert job.returncode == 0, output
    else:
        assert job.returncode != 0
        role = actor.removesuffix("Actor").lower()
        assert f"error: {role} worker 0 died in " in output
        assert "The same command resumes from the last checkpoint" in output
        again = subprocess.run(command, **options, check=False, timeout=LIMIT)
        assert again.returncode == 0
    assert untimed_rows(tmp_path / "killed") == untimed_rows(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT)
def test_after_a_rank_is_killed_in_a_save_the_previous_checkpoint_is_used(ray_head, tmp_path):
    run, options = tmp_path / "run", {"cwd": ROOT, "env": ray_head.driver_environment, "text": True}
    command = [
        sys.executable, "-m", "unigrpo", "train", *SMALL, "--actor.num_gpus_per_node", "2",
        "--train.micro_batch_size", "4", "--train.num_steps", "4", "--ckpt.save_steps", "1", "--run_dir", str(run),
        "--algo.kl.init_coef", "0", "--eval.dataset", "",
    ]  # fmt: skip
    job = subprocess.Popen(command, **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for_step(run / "metrics.jsonl", 2)  # the checkpoint of step 1 is complete
    ranks = actors(ray_head, "PolicyActor")
    assert len(ranks) == 2
    deadline = time.monotonic() + 60
    while not list((run / "checkpoints").glob(".writing_*")):  # the folder exists for some hundredths of a second
        assert time.monotonic() < deadline, "no further checkpoint was begun"
    ranks[-1].kill()
    output, _ = job.communicate(timeout=LIMIT)
    assert job.returncode == 1, output
    ended = r"error: policy worker [01] died in save: .*The same command resumes from the last checkpoint"
    assert re.search(ended, output), output
    assert not list((run / "checkpoints").glob(".writing_*"))
    again = subprocess.run(command, **options, capture_output=True, check=False, timeout=LIMIT)
    assert again.returncode == 0, again.stderr
    assert re.search(r"resuming from .*step_0000000[123], [123] steps finished", again.stderr)
    assert [row["step"] for row in untimed_rows(run)] == [1, 2, 3, 4]


def actors(ray_head: Any, name: str) -> list[psutil.Process]:
    """Returns the actors of a class on this head, and not those of another cluster on this machine."""
    found = []
    for process in psutil.Process(ray_head.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith(f"ray::{name}"):
                found.append(process)
    return found


def wait_for_step(metrics: Path, step: int, seconds: int = LIMIT) -> None:
    for _ in range(10 * seconds):
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        time.sleep(0.1)
    pytest.fail(f"step {step} was not made")


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT)
def test_gsm8k_can_be_used_unchanged_with_a_byte_tokenizer(ray_head, tmp_path):
    """The run has GSM8K's columns and its marker before the gold answer, relative paths, and a random model."""
    made = [sys.executable, "examples/tiny/make_model.py", "--random_bytes", "--output", str(tmp_path / "model")]
    subprocess.run(made, cwd=ROOT, check=True, capture_output=True)
    rows = [
        {"question": f"Ann has {i} eggs, buys 3. How many?", "answer": f"{i}+3={i + 3}\n#### {i + 3}"}
        for i in range(8)
    ]
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {**ray_head.driver_environment, "UNIGRPO_SUBMIT_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "unigrpo", "train", *SMALL, "--data.prompt_dataset", "train.jsonl",
         "--eval.dataset", "test.jsonl", "--actor.model_name_or_path", "model", "--data.max_prompt_tokens", "256",
         "--train.num_steps", "1", "--run_dir", "run"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in untimed_rows(tmp_path / "run")] == [0, 1]
    samples = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert samples
    assert {s["label"] for s in samples} <= {str(i + 3) for i in range(8)}


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """Returns the exit status of a command that ends before training. It runs in this process, which saves seconds."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["unigrpo", "train", *SMALL, *arguments])
    with pytest.raises(SystemExit) as left:
        sys.exit(main())
    return left.value.code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--actor.model_name_or_path", "absent"], "actor.model_name_or_path 'absent'"),
        (["--data.max_prompt_tokens", "3"], "train.jsonl:1: the prompt has 16 tokens"),
        (["--algo.likelihood.name", "couple"], "no 'couple'; choose one of ['all_masked', 'block_masks'"),
        (["--reward.terms", "[{name: cot}]"], "reward.terms: no 'cot'; choose one of"),
        (["--data.prompt_dataset", "absent.jsonl"], "absent.jsonl: no such file"),
    ],
)
def test_bad_input_ends_with_one_line_before_ray_is_asked(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(cluster, "connect", lambda _: pytest.fail("Ray was used"))
    assert ended(monkeypatch, *arguments, "--run_dir", str(tmp_path / "run")) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


def test_a_run_that_needs_more_gpus_than_exist_ends_with_one_line_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "connect", lambda _: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 2.0})
    wrong = ["--actor.num_gpus_per_node", "8", "--train.micro_batch_size", "1", "--run_dir", str(tmp_path / "run")]
    assert ended(monkeypatch, *wrong) == 2
    assert "the run needs 8 GPUs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_ray_the_message_says_how_to_start_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert ended(monkeypatch, "--run_dir", str(tmp_path / "run")) == 2
    assert "ray start --head" in capsys.readouterr().err
