"""Tests that the driver replaces names on the Hub by folders once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unigrpo import CheckpointError
from unigrpo.config import ActorConfig, DataConfig, ImageConfig, RunConfig
from unigrpo.data.prompting import check_prompt_text, encode_prompt, prompt_lengths
from unigrpo.models import weight_files
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer, with_local_folders
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt


@pytest.fixture
def hub() -> dict[str, Path]:
    """Returns the folders of the Hub by their names."""
    return {}


@pytest.fixture
def asked(hub: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that records the names for which the Hub is asked."""
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
    assert of_workers == run(str(tiny_unified_folder), str(own)), "another setting has changed"
    for _ in range(64):
        load_config(of_workers.actor.model_name_or_path)
    load_tokenizer(of_workers.actor.model_name_or_path)
    assert find_image_tokenizer(of_workers.image.tokenizer, of_workers.actor.model_name_or_path) is not None
    assert len(asked) == 2


def test_names_of_folders_do_not_change(asked: list[str], tiny_model_folder: Path) -> None:
    config = run(str(tiny_model_folder))
    assert with_local_folders(config) == config
    assert asked == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: run("owner/none"), r"owner/none: there is no such folder, and the Hub has no such download"),
        (
            lambda folder: run(str(folder), "owner/none"),
            r"owner/none: there is no such folder, and the Hub has no such",
        ),
        (lambda folder: run(str(folder / "none")), r"none: there is no such folder; .* that all nodes see"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_by_the_driver(
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


@pytest.fixture
def changed_tokenizer(tmp_path: Path, tiny_model_folder: Path) -> Callable[[str, dict[str, object]], str]:
    """Copies the tiny model without weights, with other values in one of its JSON files, and returns the folder."""

    def change(file: str, values: dict[str, object]) -> str:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        (folder / file).write_text(json.dumps({**content, **values}))
        return str(folder)

    return change


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("tokenizer.json", {"added_tokens": [{"id": 0, "content": "a" * 1001, "special": True}]}),
        ("tokenizer_config.json", {"eos_token": "a" * 1001}),
        ("tokenizer_config.json", {"additional_special_tokens": ["b", "a" * 1001]}),
        ("special_tokens_map.json", {"eos_token": {"content": "a" * 1001}}),
        ("added_tokens.json", {"a" * 1001: 30}),
    ],
)
def test_special_tokens_of_any_length_are_refused_before_the_library_reads_them(
    changed_tokenizer: Callable[[str, dict[str, object]], str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    values: dict[str, object],
) -> None:
    folder = changed_tokenizer(file, values)
    monkeypatch.setattr("unigrpo.models.loading.AutoTokenizer", None)
    with pytest.raises(CheckpointError, match=rf"{file} names a special token of 1001 characters, expected at most"):
        load_tokenizer(folder)


def test_a_long_chat_template_is_allowed(
    changed_tokenizer: Callable[[str, dict[str, object]], str],
) -> None:
    folder = changed_tokenizer("tokenizer_config.json", {"chat_template": "a" * 5000})
    assert load_tokenizer(folder).encode("2+3")


def test_a_tokenizer_on_the_hub_is_checked_as_a_folder_is(
    hub: dict[str, Path], asked: list[str], changed_tokenizer: Callable[[str, dict[str, object]], str]
) -> None:
    hub["owner/policy"] = Path(changed_tokenizer("tokenizer_config.json", {"eos_token": "a" * 1001}))
    with pytest.raises(CheckpointError, match=r"'owner/policy': tokenizer_config.json names a special token"):
        load_tokenizer("owner/policy")
    assert asked == ["owner/policy"]


@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
def test_a_regular_expression_that_takes_too_many_attempts_is_an_error_with_the_file(
    changed_tokenizer: Callable[[str, dict[str, object]], str], part: str
) -> None:
    kind = {"pre_tokenizer": {"type": "Split", "behavior": "Isolated", "invert": False},
            "normalizer": {"type": "Replace", "content": "x"}}[part]  # fmt: skip
    folder = changed_tokenizer("tokenizer.json", {part: {**kind, "pattern": {"Regex": "(a+)+$"}}})
    tokenizer = load_tokenizer(folder)
    vocabulary = Vocabulary.from_pretrained_parts(load_config(folder), tokenizer)
    prompt = Prompt(id="a:1", text="a" * 60 + "!")
    plain = DataConfig(prompt_template="plain")
    for use in (
        lambda: encode_prompt(prompt, tokenizer, vocabulary, plain),
        lambda: check_prompt_text(prompt, tokenizer),
        lambda: prompt_lengths([prompt], tokenizer, vocabulary, plain, torch.zeros(4, dtype=torch.long)),
    ):
        with pytest.raises(CheckpointError, match=r"model/tokenizer.json: the tokenizer failed on a text \(.*retry"):
            use()
