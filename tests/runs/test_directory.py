"""Tests that the directory of a run is kept when the run is resumed, and that its deletion during the run is
reported."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from unigrpo.config import LoggerConfig, RunConfig, TrainConfig
from unigrpo.runs.directory import RunDirectory
from unigrpo.runs.errors import OutputError


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(run_dir=str(tmp_path / "run"), logger=LoggerConfig(tensorboard=False))


def test_the_config_before_a_resume_with_another_one_is_kept(config):
    folder = Path(config.run_dir)
    RunDirectory(config, 0).close()
    first = (folder / "config.yaml").read_text()
    RunDirectory(config, 2).close()
    assert not list(folder.glob("config_until_*"))  # the config has not changed
    other = dataclasses.replace(config, train=TrainConfig(seed=9))
    RunDirectory(other, 2).close()
    kept = folder / "config_until_step_00000002.yaml"
    assert kept.read_text() == first
    assert "seed: 9" in (folder / "config.yaml").read_text()
    # The run resumes again from the same step, and the earlier steps still have the first config.
    RunDirectory(config, 2).close()
    assert kept.read_text() == first


@pytest.mark.parametrize(
    "write",
    [
        lambda output: output.metrics(1, {"reward/total_mean": 1.0}),
        lambda output: output.rollouts(1, [{"kind": "train", "completion": "x"}]),
        lambda output: output.images(1, {"images": Image.new("RGB", (2, 2))}),
        lambda output: output.summary({}),
    ],
)
def test_a_directory_that_is_deleted_during_the_run_is_named(config: RunConfig, write: Callable[[RunDirectory], None]):
    output = RunDirectory(config, 0)
    shutil.rmtree(config.run_dir)
    with pytest.raises(OutputError, match=r"could not be written: .*run was deleted or moved during the run"):
        write(output)
