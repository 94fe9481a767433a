"""Tests that experiment tracking that cannot work and wrong flags are errors before a run starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from unigrpo.cli.main import run_command
from unigrpo.runs.tracking import check_tracking


def test_no_project_needs_nothing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_tracking("")


@pytest.mark.parametrize(
    ("is_installed", "variables", "message"),
    [
        (False, {"WANDB_API_KEY": "k"}, "wandb is not installed: pip install wandb"),
        (True, {}, "WANDB_API_KEY is not; set it, or WANDB_MODE=offline"),
        (True, {"WANDB_MODE": "offline"}, ""),
        (True, {"WANDB_API_KEY": "k"}, ""),
    ],
)
def test_what_a_project_needs_is_named(monkeypatch, is_installed, variables, message):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_installed else None)
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if not message:
        check_tracking("mine")
        return
    with pytest.raises(ValueError, match=message):
        check_tracking("mine")


@pytest.mark.parametrize(("command", "config"), [("train", "tiny/unigrpo.yaml"), ("pretrain", "tiny/stage1_1.yaml")])
def test_settings_are_checked_without_model_data_or_ray(command, config, monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest)
    )
    file = Path(__file__).parents[2] / "launch" / "configs" / config
    given = ["--config", str(file), "--run_dir", str(tmp_path), "--train.num_steps", "3", "--check_settings"]
    assert run_command(command, given) == 0
    assert run_command(command, [*given, "--logger.wandb_project", "mine"]) == 2
    assert "wandb is not installed" in capsys.readouterr().err
    assert run_command(command, ["--train.num_step", "3", *given]) == 2
    assert "did you mean --train.num_steps?" in capsys.readouterr().err
