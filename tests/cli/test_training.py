"""Tests the training commands before a run starts, such as the error about a directory that another run uses."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from unigrpo.cli import training
from unigrpo.cli.main import main
from unigrpo.cli.training import UniGRPOJob, summary_table
from unigrpo.distributed import cluster
from unigrpo.runs.lock import locked

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "config"),
    [("train", "launch/configs/tiny_text.yaml"), ("pretrain", "launch/configs/tiny/stage1_1.yaml")],
)
@pytest.mark.parametrize("setting", ["--run_dir", "--ckpt.path"])
def test_the_directory_of_an_active_run_is_refused_before_ray_is_used(
    tmp_path, monkeypatch, capsys, command, config, setting
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cluster, "connect", lambda _: pytest.fail("Ray was used"))
    directories = {"--run_dir": str(tmp_path / "other"), setting: str(tmp_path / "used")}
    with locked(tmp_path / "used", "--run_dir"):
        resuming = ["--ckpt.load_enable", "true", *(word for pair in directories.items() for word in pair)]
        assert main([command, "--config", config, *resuming]) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{setting} {tmp_path / 'used'} is in use by another run" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["check", "connect"])
@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_signal_in_the_checks_says_that_the_training_had_not_begun(
    tmp_path, monkeypatch, capsys, moment, number, name
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(UniGRPOJob, moment, lambda _: signal.raise_signal(number))
    monkeypatch.setattr(training, "check_checkpoint", lambda *_: None)
    flags = ["--config", "launch/configs/tiny_text.yaml", "--run_dir", str(tmp_path / "run")]
    assert main(["train", *flags]) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"unigrpo train was stopped by {name}; it was checking the run and had not begun to train; the same command "
        "starts it again"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "pretrain", "mixcot"])
def test_a_run_without_a_config_does_not_start(capsys, command):
    assert main([command, "--train.num_steps", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: no config; name a YAML file")


def test_a_plan_of_a_missing_model_says_which_model_it_used(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    flags = ["--config", "launch/configs/tiny_text.yaml", "--actor.model_name_or_path", "examples/tiny/another"]
    assert main(["train", *flags, "--dry_run"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.count(
        "examples/tiny/another is neither a folder on this machine nor a downloaded model, so the plan is that"
    )
    assert "the run needs " in error


def test_the_summary_shows_metrics_that_exist_by_task_only_by_task():
    after = {
        "a_greedy": 0.5, "a_sampled": 0.5, "reward_total_sampled": 3.0, "yes_fraction_sampled": 0.25,
        "reward_total": 3.0,
        "a_greedy/text": 0.25, "a_sampled/text": 0.75, "a_greedy/mmu": 0.5, "a_sampled/mmu": 0.5,
        "reward_total_sampled/text": 1.0, "reward_total_sampled/mmu": 2.0,
    }  # fmt: skip
    before = dict.fromkeys(after, 0.5)
    header, *rows = summary_table({"eval": {"before": before, "after": after}}).splitlines()
    assert header.split() == ["held", "out", "before", "after", "gain"]
    assert [row.split() for row in rows] == [
        ["yes_fraction_sampled", "0.500", "0.250", "-0.250"],
        ["a_greedy/text", "0.500", "0.250", "-0.250"],
        ["a_sampled/text", "0.500", "0.750", "+0.250"],
        ["a_greedy/mmu", "0.500", "0.500", "+0.000"],
        ["a_sampled/mmu", "0.500", "0.500", "+0.000"],
        ["reward_total_sampled/text", "0.500", "1.000", "+0.500"],
        ["reward_total_sampled/mmu", "0.500", "2.000", "+1.500"],
    ]
    assert len({len(line) for line in (header, *rows)}) == 1


def test_the_summary_of_one_task_and_of_a_stage_has_every_metric_once():
    one = {"a_sampled": 1.0, "reward_total_sampled": 2.0, "reward_total": 2.0}
    table = summary_table({"eval": {"before": one, "after": one}})
    assert [row.split()[0] for row in table.splitlines()[1:]] == ["a_sampled", "reward_total_sampled"]
    stage = {"validation/t2i_nats_per_token": 4.0, "validation/t2i_nats_per_token_ratio_0.25": 5.0}
    assert len(summary_table({"eval": {"before": stage, "after": stage}}).splitlines()) == 3
    assert "no held-out prompts" in summary_table({"eval": {"before": {}, "after": {}}})
