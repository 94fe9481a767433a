"""The training commands before they start anything: directories that another run uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from unigrpo.cli.main import main
from unigrpo.distributed import cluster
from unigrpo.runs.lock import locked

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "config"),
    [("train", "launch/configs/tiny_text.yaml"), ("pretrain", "launch/configs/tiny/stage1_1.yaml")],
)
@pytest.mark.parametrize("setting", ["--run_dir", "--ckpt.path"])
def test_a_directory_of_a_run_that_is_under_way_is_refused_before_anything_starts(
    tmp_path, monkeypatch, capsys, command, config, setting
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cluster, "connect", lambda _: pytest.fail("Ray was asked"))
    directories = {"--run_dir": str(tmp_path / "other"), setting: str(tmp_path / "used")}
    with locked(tmp_path / "used", "--run_dir"):
        resuming = ["--ckpt.load_enable", "true", *(word for pair in directories.items() for word in pair)]
        assert main([command, "--config", config, *resuming]) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{setting} {tmp_path / 'used'} is in use by another run" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["train", "pretrain", "mixcot"])
def test_a_run_without_a_config_does_not_start(capsys, command):
    assert main([command, "--train.num_steps", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: no config; name a YAML file")


def test_a_plan_of_a_model_that_is_not_here_says_which_model_it_took(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    flags = ["--config", "launch/configs/tiny_text.yaml", "--actor.model_name_or_path", "examples/tiny/another"]
    assert main(["train", *flags, "--dry_run"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: there is no folder ") and error.count(
        "examples/tiny/another here, so the plan is that"
    )
    assert "the run needs " in error
