"""Compares HPSv2 with a forward pass that is written out in this file with open_clip's names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, multi_head_attention_forward, normalize
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil

from rewards.base import RewardInput
from rewards.hpsv2 import HpsV2
from rewards.imaging.open_clip_weights import load_open_clip
from rewards.loading import load_reward

PROMPTS = ["a dog", "two cats", "rain"]
WIDTH, HEADS, LAYERS = 16, 2, 2


@pytest.fixture
def gelu_clip(clip_folder: Path, tmp_path: Path) -> Path:
    """Saves config, tokenizer and image processor of a small CLIP with the activation of CLIP-H, without weights."""
    folder = tmp_path / "clip"
    config: Any = CLIPConfig.from_pretrained(clip_folder)
    config.text_config.hidden_act = config.vision_config.hidden_act = "gelu"
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(clip_folder).save_pretrained(folder)
    CLIPImageProcessorPil.from_pretrained(clip_folder).save_pretrained(folder)
    return folder


def open_clip_weights(folder: Path) -> dict[str, Tensor]:
    """Returns random weights under open_clip's names."""
    config: Any = CLIPConfig.from_pretrained(folder)
    draws = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.5 * torch.randn(shape, generator=draws)

    positions, words = config.text_config.max_position_embeddings, config.text_config.vocab_size
    weights = {
        "logit_scale": draw(), "token_embedding.weight": draw(words, WIDTH),
        "positional_embedding": draw(positions, WIDTH), "ln_final.weight": draw(WIDTH), "ln_final.bias": draw(WIDTH),
        "text_projection": draw(WIDTH, 12), "visual.class_embedding": draw(WIDTH),
        "visual.positional_embedding": draw(17, WIDTH), "visual.conv1.weight": draw(WIDTH, 3, 8, 8),
        "visual.proj": draw(WIDTH, 12), "attn_mask": draw(positions, positions),
    }  # fmt: skip
    for name in ("visual.ln_pre", "visual.ln_post"):
        weights |= {f"{name}.weight": draw(WIDTH), f"{name}.bias": draw(WIDTH)}
    for tower in ("", "visual."):
        for layer in range(LAYERS):
            own = f"{tower}transformer.resblocks.{layer}."
            for name, *shape in (("ln_1", WIDTH), ("ln_2", WIDTH), ("attn.out_proj", WIDTH, WIDTH),
                                 ("mlp.c_fc", 32, WIDTH), ("mlp.c_proj", WIDTH, 32)):  # fmt: skip
                weights |= {f"{own}{name}.weight": draw(*shape), f"{own}{name}.bias": draw(shape[0])}
            weights[f"{own}attn.in_proj_weight"] = draw(3 * WIDTH, WIDTH)
            weights[f"{own}attn.in_proj_bias"] = draw(3 * WIDTH)
    return weights


def transformer(rows: Tensor, weights: dict[str, Tensor], tower: str, mask: Tensor | None) -> Tensor:
    """Applies the blocks of a tower to a tensor (N, L, width)."""
    for layer in range(LAYERS):
        own = {name.removeprefix(start): value for name, value in weights.items()
               if name.startswith(start := f"{tower}transformer.resblocks.{layer}.")}  # fmt: skip
        x = layer_norm(rows, (WIDTH,), own["ln_1.weight"], own["ln_1.bias"]).transpose(0, 1)
        attended, _ = multi_head_attention_forward(
            x, x, x, WIDTH, HEADS, own["attn.in_proj_weight"], own["attn.in_proj_bias"], None, None, False, 0.0,
            own["attn.out_proj.weight"], own["attn.out_proj.bias"], attn_mask=mask, need_weights=False,
        )  # fmt: skip
        rows = rows + attended.transpose(0, 1)
        x = layer_norm(rows, (WIDTH,), own["ln_2.weight"], own["ln_2.bias"])
        hidden = gelu(x @ own["mlp.c_fc.weight"].T + own["mlp.c_fc.bias"])
        rows = rows + hidden @ own["mlp.c_proj.weight"].T + own["mlp.c_proj.bias"]
    return rows


def reference(weights: dict[str, Tensor], pixels: Tensor, token_ids: Tensor, ends: Tensor) -> Tensor:
    """Returns the cosine of each pair."""
    patches = conv2d(pixels, weights["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    first = weights["visual.class_embedding"].expand(len(pixels), 1, WIDTH)
    rows = torch.cat([first, patches], dim=1) + weights["visual.positional_embedding"]
    rows = layer_norm(rows, (WIDTH,), weights["visual.ln_pre.weight"], weights["visual.ln_pre.bias"])
    pooled = transformer(rows, weights, "visual.", None)[:, 0]
    image = layer_norm(pooled, (WIDTH,), weights["visual.ln_post.weight"], weights["visual.ln_post.bias"])
    length = token_ids.shape[1]
    words = weights["token_embedding.weight"][token_ids] + weights["positional_embedding"][:length]
    causal = torch.full((length, length), float("-inf")).triu(1)
    words = transformer(words, weights, "", causal)
    text = layer_norm(words, (WIDTH,), weights["ln_final.weight"], weights["ln_final.bias"])
    text = text[torch.arange(len(text)), ends]
    image, text = normalize(image @ weights["visual.proj"]), normalize(text @ weights["text_projection"])
    return (image * text).sum(dim=1)


@pytest.mark.parametrize("is_checkpoint", [True, False])
def test_the_reward_is_the_cosine_of_the_published_model(
    gelu_clip: Path, tmp_path: Path, sample: Callable[..., RewardInput], is_checkpoint: bool
) -> None:
    batch = [sample(i, prompt) for i, prompt in enumerate(PROMPTS)]
    weights = open_clip_weights(gelu_clip)
    stored = {f"module.{name}": value for name, value in weights.items()}
    file = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": stored, "epoch": 3} if is_checkpoint else weights, file)
    tokens = AutoTokenizer.from_pretrained(gelu_clip)(PROMPTS, padding=True, return_tensors="pt")
    images = [item.image for item in batch if item.image]
    pixels = CLIPImageProcessorPil.from_pretrained(gelu_clip)(images, return_tensors="pt")["pixel_values"]
    ends = tokens["attention_mask"].sum(dim=1) - 1
    expected = reference(weights, pixels, tokens["input_ids"], ends)
    assert expected.std() > 0.01
    for model in (file, tmp_path):
        values = load_reward("hpsv2", {"model": str(model), "processor": str(gelu_clip)})(batch)
        # Sums in float32 have another order.
        torch.testing.assert_close(torch.tensor(values), expected, atol=2e-5, rtol=0)
    options = {"model": str(file), "processor": str(gelu_clip), "scale": "percent"}
    torch.testing.assert_close(torch.tensor(load_reward("hpsv2", options)(batch)), 100 * expected, atol=2e-3, rtol=0)


def test_a_folder_of_transformers_also_works(
    gelu_clip: Path, tmp_path: Path, sample: Callable[..., RewardInput]
) -> None:
    file = tmp_path / "HPS_v2_compressed.pt"
    torch.save(open_clip_weights(gelu_clip), file)
    load_open_clip(file, str(gelu_clip)).save_pretrained(tmp_path / "converted")
    batch = [sample(i, prompt) for i, prompt in enumerate(PROMPTS)]
    options = {"processor": str(gelu_clip)}
    published = load_reward("hpsv2", {**options, "model": str(file)})(batch)
    assert load_reward("hpsv2", {**options, "model": str(tmp_path / "converted")})(batch) == pytest.approx(published)


def test_wrong_weights_and_inputs_are_refused(gelu_clip: Path, tmp_path: Path) -> None:
    weights = open_clip_weights(gelu_clip)
    file = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({**weights, "visual.proj": weights["visual.proj"][:, :5]}, file)
    with pytest.raises(ValueError, match="weights of another architecture"):
        HpsV2(str(file), processor=str(gelu_clip)).load()
    torch.save({**weights, "visual.extra": weights["logit_scale"]}, file)
    with pytest.raises(ValueError, match=r"1 that do not belong there \['visual.extra'\]"):
        HpsV2(str(file), processor=str(gelu_clip)).load()
    file.unlink()
    with pytest.raises(ValueError, match="has none of the files"):
        HpsV2(str(tmp_path), processor=str(gelu_clip)).load()
    with pytest.raises(ValueError, match="no scale 'logit'"):
        HpsV2(scale="logit")
    assert HpsV2()([]) == []
    with pytest.raises(ValueError, match="generates no image"):
        HpsV2().check_prompt(RewardInput(prompt="a", completion="", task="text"))
