"""Names on the Hub become folders once, in the driver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from unigrpo import CheckpointError
from unigrpo.config import ActorConfig, ImageConfig, RunConfig
from unigrpo.models import weight_files
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer, with_local_folders


@pytest.fixture
def hub() -> dict[str, Path]:
    """The folders of the Hub by their names."""
    return {}


@pytest.fixture
def asked(hub: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that the Hub is asked for."""
    names: list[str] = []

    def download(name: str, *, allow_patterns: list[str]) -> str:
        names.append(name)
        if name not in hub:
            raise FileNotFoundError(f"404: {name}")
        return str(hub[name])

    monkeypatch.setattr(weight_files, "snapshot_download", download)
    return names


def run(model: str, tokenizer: str = "") -> RunConfig:
    return replace(
        RunConfig(), actor=ActorConfig(model_name_or_path=model), image=ImageConfig(tokenizer=tokenizer, resolution=16)
    )


def test_workers_get_folders_and_ask_the_hub_for_nothing(
    hub: dict[str, Path], asked: list[str], tiny_unified_folder: Path
) -> None:
    own = tiny_unified_folder / "image_tokenizer"
    hub.update({"owner/policy": tiny_unified_folder, "owner/magvit": own})
    config = run("owner/policy", "owner/magvit")
    of_workers = with_local_folders(config)
    assert asked == ["owner/policy", "owner/magvit"]
    assert of_workers == run(str(tiny_unified_folder), str(own)), "nothing else changes"
    for _ in range(64):
        load_config(of_workers.actor.model_name_or_path)
    load_tokenizer(of_workers.actor.model_name_or_path)
    assert find_image_tokenizer(of_workers.image.tokenizer, of_workers.actor.model_name_or_path) is not None
    assert len(asked) == 2


def test_folders_stay_as_they_are_named(asked: list[str], tiny_model_folder: Path) -> None:
    config = run(str(tiny_model_folder))
    assert with_local_folders(config) == config
    assert asked == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: run("owner/none"), r"owner/none: there is no such folder, and no such download from the Hub"),
        (lambda folder: run(str(folder), "owner/none"), r"owner/none: there is no such folder, and no such download"),
        (lambda folder: run(str(folder / "none")), r"none: there is no such folder; .* that all nodes see"),
    ],
)
def test_a_name_that_is_nowhere_is_refused_by_the_driver(
    asked: list[str], tiny_model_folder: Path, change: Callable[[Path], RunConfig], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        with_local_folders(change(tiny_model_folder))


def test_a_policy_on_the_hub_brings_its_image_tokenizer_as_a_folder_does(
    hub: dict[str, Path], asked: list[str], tiny_unified_folder: Path, tiny_model_folder: Path
) -> None:
    hub.update({"owner/policy": tiny_unified_folder, "owner/text": tiny_model_folder})
    by_name, by_folder = (find_image_tokenizer("", model) for model in ("owner/policy", str(tiny_unified_folder)))
    assert by_name is not None and by_folder is not None
    assert by_name.codebook_size == by_folder.codebook_size
    assert find_image_tokenizer("", "owner/text") is None


@pytest.mark.parametrize(
    ("normalizer", "is_loaded"),
    [
        (None, True),
        ({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}, True),
        ({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}, True),
        ({"type": "Prepend", "prepend": "\u2581"}, True),
        ({"type": "Prepend", "prepend": "y" * 1000}, False),
        ({"type": "Replace", "pattern": {"Regex": ""}, "content": "y" * 100}, False),
        (
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 40}] * 6,
            },
            False,
        ),
    ],
)
def test_a_tokenizer_whose_normalizer_makes_texts_far_longer_is_refused(
    tmp_path: Path, tiny_model_folder: Path, normalizer: object, is_loaded: bool
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "normalizer": normalizer}))
    if is_loaded:
        assert load_tokenizer(str(folder)).encode("2+3")
    else:
        with pytest.raises(CheckpointError, match=r"normalizer in tokenizer.json may make a text \d+ times as long"):
            load_tokenizer(str(folder))
