"""Tests that names of models of rewards on the Hub become paths before any process of a reward starts."""

from __future__ import annotations

import importlib
import inspect
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from rewards import hpsv2, image_reward
from rewards.base import Reward
from rewards.imaging import weights
from rewards.imaging.clip import CLIP_H
from rewards.loading import local_options, reward_names
from unigrpo import ConfigError
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.workers.reward import with_local_models

HUB = {
    "openai/clip-vit-large-patch14": ("config.json", "model.safetensors", "pytorch_model.bin", "flax_model.msgpack"),
    "owner/pickled": ("config.json", "pytorch_model.bin"),
    "yuvalkirstain/PickScore_v1": ("config.json", "model.safetensors"),
    CLIP_H: ("config.json", "merges.txt", "model.safetensors", "open_clip_model.safetensors"),
    "xswu/HPSv2": ("HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt"),
    "trl-lib/ddpo-aesthetic-predictor": ("aesthetic-model.pth",),
    "zai-org/ImageReward": ("ImageReward.pt", "med_config.json"),
    image_reward.TOKENIZER: ("vocab.txt", "model.safetensors"),
    "google/owlvit-base-patch32": ("config.json", "model.safetensors"),
}
"""Files of some repositories."""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that records requests to the Hub. Downloads are in folders of tmp_path named after the
    repositories."""
    names: list[str] = []

    def fetch(name: str, patterns: list[str]) -> Path:
        names.append(name)
        if name not in HUB:
            raise LocalEntryNotFoundError(f"no {name}")
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file in HUB[name]:
            if any(fnmatch(file, pattern) for pattern in patterns):
                (tmp_path / name / file).touch()
        return tmp_path / name

    def fetch_file(name: str, file: str) -> str:
        found = fetch(name, [file]) / file
        if not found.exists():
            raise LocalEntryNotFoundError(f"no {file}")
        return str(found)

    monkeypatch.setattr(weights, "snapshot_download", lambda name, *, allow_patterns: str(fetch(name, allow_patterns)))
    monkeypatch.setattr(weights, "hf_hub_download", fetch_file)
    return names


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("clip_score", {"batch_size": 8}, {"batch_size": 8, "model": "openai/clip-vit-large-patch14"}),
        ("clip_score", {"model": "owner/pickled"}, {"model": "owner/pickled"}),
        ("pick_score", {}, {"model": "yuvalkirstain/PickScore_v1", "processor": CLIP_H}),
        (
            "pick_score",
            {"model": "openai/clip-vit-large-patch14", "processor": None},
            {"model": "openai/clip-vit-large-patch14", "processor": None},
        ),
        ("hpsv2", {}, {"model": f"xswu/HPSv2/{hpsv2.FILES[0]}", "processor": CLIP_H}),
        (
            "aesthetic",
            {},
            {
                "model": "openai/clip-vit-large-patch14",
                "head": "trl-lib/ddpo-aesthetic-predictor/aesthetic-model.pth",
            },
        ),
        ("image_reward", {}, {"model": "zai-org/ImageReward/ImageReward.pt", "tokenizer": image_reward.TOKENIZER}),
        ("geneval", {"clip": ""}, {"clip": "", "detector": "google/owlvit-base-patch32"}),
        ("math_answer", {"tolerance": "a/b"}, {"tolerance": "a/b"}),
        ("mine.py:Mine", {"model": "owner/own"}, {"model": "owner/own"}),
    ],
)
def test_names_on_the_hub_become_paths_and_other_options_do_not_change(
    asked: list[str], tmp_path: Path, name: str, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    paths = {
        key: str(tmp_path / value) if isinstance(value, str) and value.startswith(tuple(HUB)) else value
        for key, value in expected.items()
    }
    (term,) = with_local_models(RewardConfig(terms=(RewardTermConfig(name=name, options=options),))).terms
    assert term.options == paths
    count = len(asked)
    assert local_options(name, term.options) == term.options
    assert len(asked) == count, "the processes use the Hub"


def test_weights_are_downloaded_once_and_only_where_they_are_needed(asked: list[str], tmp_path: Path) -> None:
    for name in ("clip_score", "pick_score"):
        local_options(name, {})
    assert {path.name for path in (tmp_path / CLIP_H).iterdir()} == {"config.json", "merges.txt"}
    assert {path.name for path in (tmp_path / "openai/clip-vit-large-patch14").iterdir()} == {
        "config.json",
        "model.safetensors",
    }


def test_a_tokenizer_next_to_the_weights_is_kept(asked: list[str], tmp_path: Path) -> None:
    for file in ("ImageReward.pt", "vocab.txt"):
        (tmp_path / file).touch()
    found = local_options("image_reward", {"model": str(tmp_path)})
    assert found == {"model": str(tmp_path / "ImageReward.pt"), "tokenizer": str(tmp_path)}
    assert asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "owner/absent"},
            r"reward 'clip_score': model 'owner/absent' is no folder here, and the Hub did not",
        ),
        ({"model": "/absent"}, r"reward 'clip_score': model '/absent': no such file or folder"),
    ],
)
def test_a_model_that_does_not_exist_is_an_error_with_its_name(
    asked: list[str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        with_local_models(RewardConfig(terms=(RewardTermConfig(name="clip_score", options=options),)))


def test_every_option_that_is_documented_as_a_name_of_the_hub_is_resolved() -> None:
    num_options = 0
    for name in reward_names():
        members = vars(importlib.import_module(f"rewards.{name}")).values()
        (kind,) = (m for m in members if inspect.isclass(m) and issubclass(m, Reward) and m.__module__.endswith(name))
        described = re.findall(r"^ {8}(\w+): (.*\n(?: {12}.*\n)*)", kind.__doc__ or "", re.MULTILINE)
        documented = {option for option, text in described if "Hub" in text}
        assert documented == set(kind.hub_options), name
        num_options += len(documented)
    assert num_options == 11
