"""Tests that relative paths start at the folder from which the user submits a job."""

from pathlib import Path

import pytest

from unigrpo import ConfigError
from unigrpo.cli.paths import SUBMIT_FOLDER, with_absolute_paths
from unigrpo.config import (
    ActorConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    ImageConfig,
    PromptFileConfig,
    RewardConfig,
    RewardTermConfig,
    RunConfig,
)
from unigrpo.config.corpora import SourceConfig
from unigrpo.config.denoising import ModalityConfig, StageConfig


def test_paths_that_exist_become_absolute_and_names_stay(tmp_path, monkeypatch):
    user, job = tmp_path / "user", tmp_path / "job"
    for folder in (user / "model", job):
        folder.mkdir(parents=True)
    for name in ("a.jsonl", "b.jsonl", "mine.py"):
        (user / name).touch()
    monkeypatch.chdir(job)
    monkeypatch.setenv("UNIGRPO_SUBMIT_DIR", str(user))
    (user / "math").mkdir()  # has the name of an option that is not a path
    options = {"model": "./model", "kind": "math", "url": "http://127.0.0.1/v1", "scale": 2}
    names = ("mine.py:score", "math_answer", "package.module:Class")
    terms = tuple(RewardTermConfig(name=name, options=options) for name in names)
    run = with_absolute_paths(
        RunConfig(
            run_dir="runs/x",
            data=DataConfig(prompt_dataset="a.jsonl, b.jsonl"),
            eval=EvalConfig(dataset="openai/gsm8k"),
            actor=ActorConfig(model_name_or_path="model"),
            image=ImageConfig(tokenizer="model"),
            reward=RewardConfig(terms=terms),
            ckpt=CheckpointConfig(path="../saved"),
        )
    )
    assert run.run_dir == str(user / "runs/x")
    assert run.data.prompt_dataset == f"{user / 'a.jsonl'},{user / 'b.jsonl'}"
    assert run.eval.dataset == "openai/gsm8k"
    assert run.actor.model_name_or_path == str(user / "model")
    assert [t.name for t in run.reward.terms] == [f"{user / 'mine.py'}:score", "math_answer", "package.module:Class"]
    assert run.reward.terms[0].options == options | {"model": str(user / "model")}
    assert run.image.tokenizer == str(user / "model")
    assert run.ckpt.path == str(tmp_path / "saved")


def test_prompt_files_with_settings_and_configurations_are_resolved_too(tmp_path, monkeypatch):
    monkeypatch.setenv(SUBMIT_FOLDER, str(tmp_path))
    for name in ("gsm8k", "images"):
        (tmp_path / name).mkdir()
    files = (
        PromptFileConfig(path="gsm8k:main"),
        PromptFileConfig(path="openai/gsm8k:main"),
        PromptFileConfig(path="a.jsonl", image_folder="images"),
    )
    found = with_absolute_paths(RunConfig(data=DataConfig(prompt_dataset=files))).data.prompt_dataset
    assert [(file.path, file.image_folder) for file in found if isinstance(file, PromptFileConfig)] == [
        (f"{tmp_path}/gsm8k:main", ""), ("openai/gsm8k:main", ""), (f"{tmp_path}/a.jsonl", f"{tmp_path}/images"),
    ]  # fmt: skip


def test_without_a_submit_folder_paths_start_at_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNIGRPO_SUBMIT_DIR", raising=False)
    assert with_absolute_paths(RunConfig(run_dir="x")).run_dir == str(tmp_path / "x")
    assert with_absolute_paths(RunConfig()).ckpt.path == ""


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("data/{a,b}.csv,data/*/c.parquet", "{user}/data/{a,b}.csv,{user}/data/*/c.parquet"),
        ("missing/{000..003}.tar", "{user}/missing/{000..003}.tar"),
        ("missing.jsonl", "{user}/missing.jsonl"),
        ("saved/part-[0-3]", "{user}/saved/part-[0-3]"),
        ("folder", "{user}/folder"),
        ("imdb", "imdb"),
        ("openai/gsm8k:main", "openai/gsm8k:main"),
        ("/else/a.tar", "/else/a.tar"),
        ("~/a.tar", "{home}/a.tar"),
    ],
)
def test_files_of_a_source_are_distinguished_from_data_sets_on_the_hub(tmp_path, monkeypatch, given, meant):
    monkeypatch.setenv(SUBMIT_FOLDER, str(tmp_path))
    (tmp_path / "folder").mkdir()
    source = SourceConfig(kind="text", task="lm", path=given, index_folder="index")
    config = StageConfig(lm=ModalityConfig(batch_size=1, sources={"a": source}))
    found = with_absolute_paths(config).lm.sources["a"]
    assert found.path == meant.replace("{user}", str(tmp_path)).replace("{home}", str(Path.home()))
    assert found.index_folder == str(tmp_path / "index")


def test_a_value_that_cannot_be_a_path_is_named_with_its_setting():
    for config, name in (
        (RunConfig(run_dir="a\0b"), "run_dir"),
        (RunConfig(actor=ActorConfig(model_name_or_path="x" * 300 + "/y")), "model_name_or_path"),
    ):
        with pytest.raises(ConfigError, match=rf"^{name}: '.*' can be no path \("):
            with_absolute_paths(config)
    with pytest.raises(ConfigError, match="run_dir is empty; name the folder of the run"):
        RunConfig(run_dir="")
