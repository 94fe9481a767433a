"""Tests that settings of version 0.1 are accepted under their old names, with a message that gives the new names."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from unigrpo.config import RunConfig, old_names
from unigrpo.config.denoising import StageConfig
from unigrpo.config.old_names import renamed_config, renamed_flags
from unigrpo.config.parsing import config_from_args, parse, run_parser


def config(*arguments: str, kind: Any = RunConfig) -> Any:
    return config_from_args(parse(run_parser("unigrpo train", "", kind), arguments, kind), kind)


@pytest.fixture(autouse=True)
def no_message_was_logged():
    old_names._tell.cache_clear()


def test_old_keys_of_a_file_mean_the_new_settings(tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="unigrpo.config.old_names")
    file = tmp_path / "old.yaml"
    file.write_text(
        "pictures: {resolution: 256, fit: squash}\ntrain: {parity_steps: 3, parity_limit: 0.25, num_steps: 7}\n"
    )
    run = config("--config", str(file))
    assert (run.image.resolution, run.image.fit) == (256, "stretch")
    assert (run.train.logprob_mismatch_steps, run.train.logprob_mismatch_limit, run.train.num_steps) == (3, 0.25, 7)
    config("--config", str(file))
    for message in (
        "pictures is now image; the old name works until version 0.3",
        "train.parity_steps is now train.logprob_mismatch_steps; the old name works until version 0.3",
    ):
        assert caplog.messages.count(message) == 1, "each message is logged once, however often the file is read"


def test_the_fit_of_a_source_is_renamed_too(tmp_path):
    source = {"kind": "captions", "task": "t2i", "path": "a.csv", "fit": "squash"}
    file = tmp_path / "old.yaml"
    file.write_text(yaml.safe_dump({"t2i": {"batch_size": 1, "sources": {"a": source}}}))
    assert config("--config", str(file), kind=StageConfig).t2i.sources["a"].fit == "stretch"


def test_old_flags_mean_the_new_settings(caplog):
    run = config("--pictures.fit", "squash", "--pictures.resolution=64", "--train.parity_steps", "0")
    assert config("--reward.max_missing_share", "0.5").reward.max_missing_fraction == 0.5
    assert caplog.messages[-1].endswith("is now reward.max_missing_fraction; the old name works until version 0.4")
    assert (run.image.fit, run.image.resolution, run.train.logprob_mismatch_steps) == ("stretch", 64, 0)


def test_other_values_stay_as_they_are():
    arguments = ["--data.input_key", "squash", "--run_dir", "pictures", "--reward.terms", "[{name: pictures}]"]
    assert renamed_flags(arguments) == arguments
    content = {"data": {"input_key": "squash"}, "run_dir": "pictures"}
    assert renamed_config({**content}) == content


def test_one_setting_under_both_names_is_refused():
    with pytest.raises(ValueError, match=r"the config has pictures and image, which are one setting; keep image"):
        renamed_config({"pictures": {}, "image": {}})


SAVED = Path(__file__).parents[1] / "fixtures" / "version_0_1"
"""The config.yaml that two runs of version 0.1 wrote."""


@pytest.mark.parametrize(("name", "kind"), [("unigrpo", RunConfig), ("stage2_2", StageConfig)])
def test_the_config_that_a_run_of_version_0_1_wrote_still_starts_the_same_run(name, kind):
    file = SAVED / f"{name}.yaml"
    old = yaml.safe_load(file.read_text())
    now = yaml.safe_load(yaml.safe_dump(plain(config("--config", str(file), kind=kind).to_dict())))
    train = old["train"]
    if name == "unigrpo":
        train["logprob_mismatch_steps"], train["logprob_mismatch_limit"] = train.pop("parity_steps"), 0.25
        assert train.pop("parity_limit") == 0.25
        old["reward"]["max_missing_fraction"] = old["reward"].pop("max_missing_share")
    old["image"] = old.pop("pictures")
    assert differences(old, now) == []


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def differences(old: Any, now: Any, path: str = "") -> list[str]:
    """Returns the dotted names of settings of the old config that the new one lacks or has with another value."""
    if isinstance(old, dict) and isinstance(now, dict):
        return [d for key, value in old.items() for d in differences(value, now.get(key), f"{path}.{key}")]
    if isinstance(old, list) and isinstance(now, list) and len(old) == len(now):
        return [d for i, (a, b) in enumerate(zip(old, now, strict=True)) for d in differences(a, b, f"{path}[{i}]")]
    is_same = old == now or (old, now) == ("squash", "stretch")
    return [] if is_same else [f"{path}: {old!r} is now {now!r}"]
