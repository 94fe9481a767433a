"""Compares ImageReward with numbers of the published network, and tests mistakes that would not raise an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertTokenizer, CLIPImageProcessorPil

from rewards.base import RewardInput
from rewards.image_reward import ImageReward
from rewards.imaging.image_reward_files import load_image_reward, main, save_image_reward
from rewards.imaging.image_reward_model import (
    MEAN,
    STD,
    ImageRewardModel,
    configs_of,
    to_pixels,
    to_published_names,
    to_transformers_names,
)
from rewards.loading import load_reward

Weights = dict[str, Tensor]
Golden = Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]]
HEADS = {"vision_heads": 4, "text_heads": 4}


@pytest.fixture
def folder(image_reward_weights: Weights, bert_folder: Path, tmp_path: Path) -> Path:
    """Returns a folder with the golden network in the published format and a tokenizer."""
    for file in bert_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(image_reward_weights, tmp_path / "ImageReward.pt")
    (tmp_path / "config.json").write_text(json.dumps(HEADS))
    return tmp_path


def build(weights: Weights, **changes: Any) -> ImageRewardModel:
    """Returns the network of the weights. Changes apply to the vision config (``vision_...``) or to the text
    config."""
    vision, text = configs_of(weights, **HEADS)
    for name, value in changes.items():
        config = vision if name.startswith("vision_") else text
        setattr(config, name.removeprefix("vision_"), value)
    network = ImageRewardModel(vision, text)
    network.load_state_dict(to_transformers_names(weights), strict=True)
    return network.eval()


def rewards_of(network: ImageRewardModel, arrays: Weights) -> Tensor:
    with torch.no_grad():
        return network(arrays["in.token_ids"], arrays["in.attention_mask"], arrays["in.image"])


def test_the_published_network_gives_the_same_numbers(golden: Golden, folder: Path) -> None:
    _, arrays = golden("imagereward_tiny")
    network = load_image_reward(str(folder))
    with torch.no_grad():
        seen = network.vision(pixel_values=arrays["in.image"]).last_hidden_state
        hidden = network.text_hidden(arrays["in.token_ids"], arrays["in.attention_mask"], seen)
    torch.testing.assert_close(seen, arrays["out.image_embeds"], atol=1e-5, rtol=0)
    torch.testing.assert_close(hidden, arrays["out.text_hidden"], atol=1e-5, rtol=0)
    torch.testing.assert_close(network.head(hidden[:, 0])[:, None], arrays["out.raw_score"], atol=1e-5, rtol=0)
    torch.testing.assert_close(rewards_of(network, arrays)[:, None], arrays["out.score"], atol=1e-5, rtol=0)


def test_the_images_are_prepared_as_published(golden: Golden) -> None:
    params, arrays = golden("imagereward_preprocess")
    image = Image.fromarray(arrays["in.image_uint8_hwc"].numpy())
    torch.testing.assert_close(to_pixels([image], params["size"])[0], arrays["out.image"], atol=1e-5, rtol=0)


def test_square_images_are_prepared_as_clip_does(sample: Callable[..., RewardInput]) -> None:
    image = sample(size=(50, 50)).image
    assert image is not None
    expected = CLIPImageProcessorPil()(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(to_pixels([image], 224), expected, atol=1e-5, rtol=0)


def test_an_odd_margin_is_cut_where_torchvision_cuts() -> None:
    image = Image.new("RGB", (11, 8))
    for x in range(11):
        image.paste((10 * x,) * 3, (x, 0, x + 1, 8))
    first = to_pixels([image], 8)[0, 0, 0, 0] * 0.26862954 + 0.48145466
    assert first.item() * 255 == pytest.approx(20)  # of 3 extra columns, round(1.5) = 2 are cut on the left


def test_the_epsilon_of_the_image_encoder_is_not_transformers_default(
    golden: Golden, image_reward_weights: Weights
) -> None:
    _, arrays = golden("imagereward_tiny")
    assert configs_of(image_reward_weights)[0].layer_norm_eps == 1e-6
    right = rewards_of(build(image_reward_weights), arrays)
    wrong = rewards_of(build(image_reward_weights, vision_layer_norm_eps=1e-5), arrays)
    assert (right - wrong).abs().max() > 1e-6


def test_another_number_of_heads_loads_and_gives_other_results(golden: Golden, image_reward_weights: Weights) -> None:
    _, arrays = golden("imagereward_tiny")
    for changes in ({"num_attention_heads": 8}, {"vision_num_attention_heads": 8}):
        wrong = rewards_of(build(image_reward_weights, **changes), arrays)
        assert (wrong[:, None] - arrays["out.score"]).abs().max() > 1e-3


def test_a_token_attends_to_later_tokens(golden: Golden, image_reward_weights: Weights) -> None:
    _, arrays = golden("imagereward_tiny")
    network = build(image_reward_weights)
    token_ids = arrays["in.token_ids"].clone()
    last = int(arrays["in.attention_mask"][0].sum()) - 1
    token_ids[0, last] = 7 if token_ids[0, last] != 7 else 8
    changed = rewards_of(network, {**arrays, "in.token_ids": token_ids}) - rewards_of(network, arrays)
    assert changed[0].abs() > 1e-4 and torch.equal(changed[1:], torch.zeros(2))


def test_padding_and_other_samples_do_not_change_a_reward(golden: Golden, image_reward_weights: Weights) -> None:
    _, arrays = golden("imagereward_tiny")
    network = build(image_reward_weights)
    for i, length in enumerate(arrays["in.attention_mask"].sum(dim=1).tolist()):
        alone = {name: value[i : i + 1] for name, value in arrays.items() if name.startswith("in.")}
        alone["in.token_ids"] = alone["in.token_ids"][:, :length]
        alone["in.attention_mask"] = alone["in.attention_mask"][:, :length]
        torch.testing.assert_close(rewards_of(network, alone), arrays["out.score"][i], atol=1e-5, rtol=0)


def test_the_head_is_affine_and_the_reward_standardised(golden: Golden, image_reward_weights: Weights) -> None:
    _, arrays = golden("imagereward_tiny")
    matrix, offset = torch.eye(32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64)
    for i in (0, 2, 4, 6, 7):
        weight = image_reward_weights[f"mlp.layers.{i}.weight"].double()
        matrix, offset = weight @ matrix, weight @ offset + image_reward_weights[f"mlp.layers.{i}.bias"]
    raw = arrays["out.text_hidden"][:, 0].double() @ matrix.T + offset
    torch.testing.assert_close(((raw - MEAN) / STD).float(), arrays["out.score"], atol=1e-5, rtol=0)


def published_shapes() -> Weights:
    """Returns names and shapes of the published file as tensors without memory."""
    shapes: dict[str, tuple[int, ...]] = {
        "blip.visual_encoder.cls_token": (1, 1, 1024),
        "blip.visual_encoder.pos_embed": (1, 197, 1024),
        "blip.visual_encoder.patch_embed.proj.weight": (1024, 3, 16, 16),
        "blip.visual_encoder.patch_embed.proj.bias": (1024,),
        "blip.visual_encoder.norm.weight": (1024,),
        "blip.visual_encoder.norm.bias": (1024,),
        "blip.text_encoder.embeddings.word_embeddings.weight": (30524, 768),
        "blip.text_encoder.embeddings.position_embeddings.weight": (512, 768),
        "blip.text_encoder.embeddings.position_ids": (1, 512),
        "blip.text_encoder.embeddings.LayerNorm.weight": (768,),
        "blip.text_encoder.embeddings.LayerNorm.bias": (768,),
        "blip.vision_proj.weight": (256, 1024),
        "blip.text_proj.weight": (256, 768),
    }

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    for i in range(24):
        block = f"blip.visual_encoder.blocks.{i}"
        for norm in ("norm1", "norm2"):
            shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (1024,)
        linear(f"{block}.attn.qkv", 3072, 1024)
        linear(f"{block}.attn.proj", 1024, 1024)
        linear(f"{block}.mlp.fc1", 4096, 1024)
        linear(f"{block}.mlp.fc2", 1024, 4096)
    for i in range(12):
        layer = f"blip.text_encoder.encoder.layer.{i}"
        for attention, width in (("attention", 768), ("crossattention", 1024)):
            for part, columns in (("query", 768), ("key", width), ("value", width)):
                linear(f"{layer}.{attention}.self.{part}", 768, columns)
            linear(f"{layer}.{attention}.output.dense", 768, 768)
        linear(f"{layer}.intermediate.dense", 3072, 768)
        linear(f"{layer}.output.dense", 768, 3072)
        for norm in ("attention.output", "crossattention.output", "output"):
            shapes[f"{layer}.{norm}.LayerNorm.weight"] = shapes[f"{layer}.{norm}.LayerNorm.bias"] = (768,)
    for i, (rows, columns) in zip(
        (0, 2, 4, 6, 7), ((1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)), strict=True
    ):
        linear(f"mlp.layers.{i}", rows, columns)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_the_published_sizes_follow_from_the_published_weights() -> None:
    weights = published_shapes()
    vision, text = configs_of(weights)
    assert (vision.num_hidden_layers, vision.num_attention_heads, vision.image_size) == (24, 16, 224)
    assert (text.num_hidden_layers, text.num_attention_heads, text.encoder_hidden_size) == (12, 12, 1024)
    assert (text.layer_norm_eps, text.hidden_act, vision.hidden_act) == (1e-12, "gelu", "gelu")
    with torch.device("meta"):
        network = ImageRewardModel(vision, text)
    network.load_state_dict(to_transformers_names(weights), strict=True, assign=True)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sizes == pytest.approx({"vision": 303.3e6, "text": 142.0e6, "head": 0.93e6}, rel=3e-3)


def test_names_are_converted_and_converted_back(image_reward_weights: Weights) -> None:
    there = to_transformers_names(image_reward_weights)
    assert set(there) == set(build(image_reward_weights).state_dict())
    back = to_published_names(there)
    assert back.keys() == image_reward_weights.keys()
    assert all(back[name] is value for name, value in image_reward_weights.items())


def test_the_reward_reads_prompts_and_images(
    folder: Path, image_reward_weights: Weights, bert_folder: Path, sample: Callable[..., RewardInput]
) -> None:
    batch = [sample(0, "a dog 7"), sample(1, "two cats", (48, 32)), sample(2, "a dog 7")]
    tokens = BertTokenizer.from_pretrained(bert_folder)([item.prompt for item in batch], padding=True)
    arrays = {
        "in.token_ids": torch.tensor(tokens["input_ids"]),
        "in.attention_mask": torch.tensor(tokens["attention_mask"]),
        "in.image": to_pixels([item.image for item in batch if item.image], 32),
    }
    expected = rewards_of(build(image_reward_weights), arrays).tolist()
    values = load_reward("image_reward", {"model": str(folder)})(batch)
    assert values == pytest.approx(expected, abs=1e-5)
    assert load_reward("image_reward", {"model": str(folder), "batch_size": 2})(batch) == pytest.approx(
        expected, abs=1e-5
    )
    assert ImageReward(str(folder))([]) == []


def test_prompts_are_plain_bert_sequences_cut_at_35_tokens(
    folder: Path, sample: Callable[..., RewardInput], caplog: pytest.LogCaptureFixture
) -> None:
    reward = ImageReward(str(folder))
    token_ids, mask = reward._tokens(["a b", "c " * 50])
    assert token_ids.shape == mask.shape == (2, 35)
    assert token_ids[0, :4].tolist() == [2, 5, 6, 3] and not token_ids[0, 4:].any()  # [CLS] a b [SEP] [PAD] ...
    assert token_ids[1, 0] == 2 and token_ids[1, 34] == 3 and mask[1].all()
    assert len(caplog.messages) == 1 and "52 tokens are cut to 35" in caplog.messages[0]
    same = reward([sample(0, "c " * 33), sample(0, "c " * 33 + "d e f")])
    assert same[0] == pytest.approx(same[1], abs=1e-6)


def test_the_folder_that_the_command_writes_gives_equal_rewards(
    folder: Path, tmp_path: Path, sample: Callable[..., RewardInput], monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = tmp_path / "converted"
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    weights["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    weights["blip.vision_proj.weight"] = torch.zeros(4, 48)
    torch.save(weights, folder / "ImageReward.pt")
    save_image_reward(weights, converted, **HEADS)
    item = sample()
    values = ImageReward(str(folder))([item])
    assert ImageReward(str(converted), tokenizer=str(folder))([item]) == values
    assert ImageReward(str(converted / "model.safetensors"), tokenizer=str(folder))([item]) == values
    assert "blip.vision_proj.weight" not in load_file(converted / "model.safetensors")
    # Without numbers of heads, the published size of 64 components per head applies, which gives one head here.
    target = tmp_path / "published_heads"
    monkeypatch.setattr("sys.argv", ["", "--input", str(folder / "ImageReward.pt"), "--output", str(target)])
    main()
    assert json.loads((target / "config.json").read_text())["vision_heads"] == 1


def test_a_file_in_the_format_before_torch_1_6_is_also_read(folder: Path, sample: Callable[..., RewardInput]) -> None:
    values = ImageReward(str(folder))([sample()])
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    torch.save(weights, folder / "ImageReward.pt", _use_new_zipfile_serialization=False)
    assert ImageReward(str(folder))([sample()]) == values


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_that_would_run_code_is_refused(folder: Path, tmp_path: Path, is_zip: bool) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"blip.weight": Harmful()}, folder / "ImageReward.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match="not a file of weights that can be read safely"):
        ImageReward(str(folder)).load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mlp.layers.0.bias", None, r"1 missing \['head.layers.0.bias'\]"),
        ("blip.text_encoder.pooler.dense.weight", torch.zeros(2), r"1 that do not belong there \['text.pooler"),
        ("mlp.layers.7.bias", torch.zeros(2), "another architecture.*size mismatch"),
        ("blip.visual_encoder.pos_embed", None, "not the weights of an ImageReward"),
        ("blip.visual_encoder.norm.bias", torch.full((48,), float("inf")), "norm.bias' are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder: Path, name: str, value: Tensor | None, message: str) -> None:
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    weights.pop(name, None)
    if value is not None:
        weights[name] = value
    torch.save(weights, folder / "ImageReward.pt")
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        ImageReward(str(folder)).load()


def test_files_without_a_model_are_refused(folder: Path, tmp_path: Path, clip_folder: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        ImageReward(str(tmp_path / "nowhere.pt")).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has none of the files"):
        ImageReward(str(tmp_path / "empty")).load()
    with pytest.raises(ValueError, match="not the weights of an ImageReward"):
        ImageReward(str(clip_folder)).load()
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="not a file of weights"):
        ImageReward(str(folder)).load()
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="not the weights of an ImageReward"):
        ImageReward(str(folder)).load()


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(str(i) for i in range(100))]
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path / "larger")
    with pytest.raises(ValueError, match="do not belong together"):
        ImageReward(str(folder), tokenizer=str(tmp_path / "larger")).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "has no generated image"),
        ({"image": Image.new("RGB", (4, 0))}, "is empty, 4 x 0 pixels"),
        ({"image": Image.new("RGBA", (8, 8))}, "has mode 'RGBA'"),
        ({"prompt": ""}, "has no prompt"),
    ],
)
def test_samples_that_cannot_be_scored_are_named(
    folder: Path, sample: Callable[..., RewardInput], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"sample 1 of the batch .*{message}"):
        ImageReward(str(folder))([sample(), replace(sample(), **change)])
