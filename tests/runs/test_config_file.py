"""Tests the config file of a run, which has no secrets and is compared with the config of a resumed run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from unigrpo.config import RewardConfig, RewardTermConfig, RunConfig, TrainConfig
from unigrpo.runs.config_file import (
    changed_settings,
    check_no_secret_is_missing,
    config_text,
)


def test_a_config_with_a_hidden_value_does_not_start_a_run():
    term = RewardTermConfig(name="judge", options={"url": "http://(hidden)@host/v1", "model": "m"})
    check_no_secret_is_missing(RunConfig())
    with pytest.raises(ValueError, match=r"reward.terms contains '\(hidden\)', .* give the secret again"):
        check_no_secret_is_missing(RunConfig(reward=RewardConfig(terms=(term,))))


def test_the_settings_that_differ_from_the_file_are_found(tmp_path: Path):
    secret = RewardTermConfig(name="judge", options={"url": "http://host/v1", "model": "m", "api_key": "S1"})
    run = RunConfig(run_dir="runs/a", reward=RewardConfig(terms=(secret,)))
    assert changed_settings(run, tmp_path) == {}
    (tmp_path / "config.yaml").write_text(config_text(run))
    assert changed_settings(run, tmp_path) == {}
    other = dataclasses.replace(run, run_dir="runs/b", train=TrainConfig(seed=9, num_steps=7))
    assert changed_settings(other, tmp_path) == {"train.seed": (42, 9), "train.num_steps": (run.train.num_steps, 7)}


def test_settings_of_another_version_differ_by_their_absence(tmp_path: Path):
    content = yaml.safe_load(config_text(RunConfig()))
    content["train"]["old"] = content["train"].pop("seed")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    found = changed_settings(RunConfig(), tmp_path)
    assert found == {"train.old": (42, "(absent)")}, "the seed is the default"
    found = changed_settings(dataclasses.replace(RunConfig(), train=TrainConfig(seed=9)), tmp_path)
    assert found == {"train.old": (42, "(absent)"), "train.seed": ("(absent)", 9)}


def test_a_file_with_invalid_yaml_is_named(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config.yaml cannot be read"):
        changed_settings(RunConfig(), tmp_path)


def test_settings_that_the_old_file_lacks_are_compared_with_their_defaults(tmp_path):
    """A newer version of the program has more settings, and the same command still resumes its run."""
    run = dataclasses.replace(RunConfig(), reward=RewardConfig(terms=(RewardTermConfig(name="cot_format"),)))
    old = run.to_dict()
    del old["reward"]["terms"][0]["attempts"], old["eval"]["max_samples"], old["logger"]
    old["pictures"] = old.pop("image")  # the old name
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(old))))
    assert changed_settings(run, tmp_path) == {}
    other = dataclasses.replace(
        run,
        reward=RewardConfig(terms=(RewardTermConfig(name="cot_format", attempts=7),)),
        eval=dataclasses.replace(run.eval, max_samples=3),
        train=TrainConfig(seed=9),
    )
    changed = changed_settings(other, tmp_path)
    assert set(changed) == {"train.seed", "reward.terms", "eval.max_samples"}
    assert changed["eval.max_samples"] == ("(absent)", 3)
    assert changed["reward.terms"][1][0]["attempts"] == 7
