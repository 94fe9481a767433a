"""Tests that image tokenizers in the published layout load, and that errors about others say what is wrong."""

from __future__ import annotations

import json
import re

import pytest
import torch
from builders import change_weights
from safetensors.torch import save_file

from unigrpo.models import weight_files
from unigrpo.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig, load_image_tokenizer

PUBLISHED = {"_class_name": "MAGVITv2", "_diffusers_version": "0.30.1"}
CONV = "decoder.conv_out.weight"


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    sizes = {"encoder_channels": [32, 32], "decoder_channels": [32, 32], "stem_channels": 32}
    return ImageTokenizer(ImageTokenizerConfig(num_bits=5, encoder_blocks=[1, 1], decoder_blocks=[1, 1], **sizes))


@pytest.fixture
def folder(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    return tmp_path


def assert_equal(model, other):
    assert model.state_dict().keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_saved_tokenizer_loads_exactly_frozen_and_in_evaluation_mode(folder, tiny):
    model = load_image_tokenizer(folder)
    assert_equal(model, tiny)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_shards_load_as_one_file_does(tiny, tmp_path):
    tiny.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_equal(load_image_tokenizer(tmp_path), tiny)


@pytest.mark.parametrize("with_tables", [True, False])
def test_the_published_layout_loads(tiny, tmp_path, with_tables):
    """The files have another name, a config of another library, and sometimes no tables."""
    sizes = ("num_bits", "stem_channels", "encoder_channels", "encoder_blocks", "decoder_channels", "decoder_blocks")
    values = {**PUBLISHED, **{name: getattr(tiny.config, name) for name in sizes}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    weights = {k: v for k, v in tiny.state_dict().items() if with_tables or not k.startswith("quantize")}
    save_file(weights, tmp_path / "pytorch_model.safetensors")
    assert_equal(load_image_tokenizer(str(tmp_path)), tiny)


def test_the_published_config_means_the_full_size(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    save_file({CONV: torch.zeros(3, 128, 3, 3)}, tmp_path / "pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"379 tensors are missing: decoder\.conv_in\.bias"):
        load_image_tokenizer(tmp_path)


def test_a_hub_name_is_downloaded_without_code_or_pickles(folder, tiny, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        weight_files, "snapshot_download", lambda name, allow_patterns: asked.update({name: allow_patterns}) or folder
    )
    assert_equal(load_image_tokenizer("showlab/magvitv2"), tiny)
    assert list(asked) == ["showlab/magvitv2"]
    assert not any(pattern.endswith((".py", ".bin", "*")) for pattern in asked["showlab/magvitv2"])


# Tests of errors.


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))}/no: there is no such folder; give"):
        load_image_tokenizer(tmp_path / "no")
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))}: no config\.json could be read"):
        load_image_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "3", "{}", "[" * 100_000, "\x00"])
def test_a_config_that_is_no_object_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"no config\.json could be read; give the folder of an image tokenizer"):
        load_image_tokenizer(folder)


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_bits", "x"), ("num_bits", 60), ("num_bits", None), ("stem_channels", -32), ("stem_channels", True),
        ("encoder_channels", 5), ("encoder_blocks", [1, "1"]), ("decoder_blocks", None),
        ("decoder_channels", [32, 1e9]),
    ],
)  # fmt: skip
def test_a_size_that_no_tokenizer_can_have_is_refused_and_named(folder, name, value):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, name: value}))
    with pytest.raises(ValueError, match=rf"{name} is .* in config\.json, expected whole numbers from . to "):
        load_image_tokenizer(folder)


def test_a_value_that_transformers_refuses_is_one_line(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "id2label": 5}))
    with pytest.raises(ValueError, match=r"config\.json has an invalid value"):
        load_image_tokenizer(folder)


def test_a_long_name_of_another_model_is_shown_in_part(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "a" * 5000}))
    with pytest.raises(ValueError, match=r"the config is of 'aaaa.{,40}', expected an image tokenizer"):
        load_image_tokenizer(folder)


def test_a_language_model_is_refused(tiny_model_folder):
    with pytest.raises(ValueError, match=r"the config is of 'mmada', expected an image tokenizer"):
        load_image_tokenizer(tiny_model_folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(ValueError, match="there are no weights; expected"):
        load_image_tokenizer(folder)


def test_a_missing_shard_is_refused_and_named(tiny, tmp_path):
    tiny.save_pretrained(tmp_path, max_shard_size="100KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard.name} is missing, one of \d+ files"):
        load_image_tokenizer(tmp_path)


def test_a_file_that_was_cut_short_is_refused_and_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read .*cut short"):
        load_image_tokenizer(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_with_nan_or_infinity_is_refused(folder, value):
    change_weights(folder, lambda weights: weights[CONV].view(-1)[5].fill_(value))
    with pytest.raises(ValueError, match=rf"1 tensors hold NaN or infinity: {re.escape(CONV)}"):
        load_image_tokenizer(folder)


def test_tensors_that_are_missing_or_left_over_or_of_another_shape_are_refused(folder):
    change_weights(folder, lambda weights: weights.update({"decoder.more": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"1 tensors are unknown: decoder\.more"):
        load_image_tokenizer(folder)
    change_weights(
        folder, lambda weights: (weights.pop("decoder.more"), weights.update({CONV: torch.zeros(3, 64, 3, 3)}))
    )
    with pytest.raises(ValueError, match=r"of shape \(3, 64, 3, 3\), expected \(3, 32, 3, 3\)"):
        load_image_tokenizer(folder)
    change_weights(folder, lambda weights: weights.pop(CONV))
    with pytest.raises(ValueError, match=rf"1 tensors are missing: {re.escape(CONV)}"):
        load_image_tokenizer(folder)


def test_bits_in_another_order_are_refused(folder):
    change_weights(folder, lambda weights: weights.update({"quantize.power_vals": 2 ** torch.arange(5)}))
    with pytest.raises(ValueError, match=r"quantize\.power_vals orders the bits of a code in another way"):
        load_image_tokenizer(folder)
