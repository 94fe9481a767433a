"""Tests whether a run may resume from the checkpoint that it finds."""

from dataclasses import replace
from pathlib import Path

import pytest

from unigrpo import ConfigError
from unigrpo.checks.resuming import check_checkpoint
from unigrpo.config import ActorConfig, DeepSpeedConfig, LoRAConfig, RunConfig, TrainConfig
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.config_file import config_text


def test_a_checkpoint_of_another_number_of_ranks_is_announced(tmp_path, caplog):
    run = RunConfig(run_dir=str(tmp_path))
    store = CheckpointStore(tmp_path / "checkpoints", max_num=1)
    store.save(1, {"num_policy_ranks": 2}, lambda folder: None)
    with caplog.at_level("INFO"):
        check_checkpoint(replace(run, ckpt=replace(run.ckpt, load_enable=True)), store)
    assert "was written by 2 policy ranks and is loaded on 1" in caplog.text


@pytest.fixture
def resumed(tmp_path) -> tuple[RunConfig, CheckpointStore]:
    """Returns a run that resumes at step 4 and whose directory has its original config."""
    store = CheckpointStore(tmp_path / "checkpoints", max_num=1)
    store.save(4, {"num_policy_ranks": 1}, lambda folder: None)
    run = RunConfig(run_dir=str(tmp_path), train=TrainConfig(num_steps=4))
    (tmp_path / "config.yaml").write_text(config_text(run))
    return replace(run, ckpt=replace(run.ckpt, load_enable=True)), store


def test_a_run_resumes_by_default_only_with_its_own_settings(resumed, caplog):
    run, store = resumed
    automatic = replace(run, ckpt=replace(run.ckpt, load_enable="auto"))
    assert type(run)().ckpt.load_enable == "auto", "the default"
    with pytest.raises(ConfigError, match=r"has no run; give the run_dir of the run that wrote it"):
        check_checkpoint(automatic, store)
    metrics = Path(run.run_dir) / "metrics.jsonl"
    metrics.write_text("{}\n")
    check_checkpoint(automatic, store)
    check_checkpoint(replace(automatic, train=TrainConfig(num_steps=9)), store)
    with caplog.at_level("INFO"):
        actor = replace(automatic.actor, num_nodes=2, num_gpus_per_node=4)
        check_checkpoint(replace(automatic, actor=actor), store)
    assert "was written by 1 policy ranks and is loaded on 8" in caplog.text
    with pytest.raises(
        ConfigError, match=r"other settings: train.seed: 42 -> 9. Choose another --run_dir for a new run"
    ):
        check_checkpoint(replace(automatic, train=TrainConfig(num_steps=4, seed=9)), store)
    caplog.clear()
    empty = CheckpointStore(metrics.parent / "none", max_num=1)
    check_checkpoint(automatic, empty)
    assert "has a run without a checkpoint, which starts again" in caplog.text


def test_a_run_cannot_be_resumed_to_fewer_steps_than_are_finished(resumed):
    run, store = resumed
    check_checkpoint(run, store)
    with pytest.raises(ValueError, match=r"4 steps are finished, but train.num_steps is 3; set 4 or more"):
        check_checkpoint(replace(run, train=TrainConfig(num_steps=3)), store)


def test_settings_that_a_resumed_run_changes_are_listed(resumed, caplog):
    run, store = resumed
    check_checkpoint(replace(run, train=TrainConfig(num_steps=9, seed=9)), store)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text.split(": ", 1)[1] for text in warned] == ["train.num_steps: 4 -> 9", "train.seed: 42 -> 9"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"ds": DeepSpeedConfig(lora=LoRAConfig(rank=4))}, "ds.lora.rank: 0 -> 4"),
        ({"ds": DeepSpeedConfig(zero_stage=3)}, "ds.zero_stage: 2 -> 3"),
        ({"actor": ActorConfig(model_name_or_path="other")}, "actor.model_name_or_path: .* -> other"),
    ],
)
def test_settings_that_the_checkpoint_depends_on_cannot_change(resumed, section, message):
    run, store = resumed
    with pytest.raises(ValueError, match=rf"do not fit these settings: {message}\. Set them as before"):
        check_checkpoint(replace(run, **section), store)
