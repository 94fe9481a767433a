"""Makes small random CLIP and ImageReward models in the formats of the published ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance_cases.case import recipe_weights
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import BertTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from rewards.base import RewardInput


def save_tiny_clip(folder: Path, **vision: int) -> None:
    """Saves a random CLIP for images of 32 pixels and texts of 16 tokens, with a token for each byte."""
    letters = sorted(ByteLevel.alphabet())
    names = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=[])
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(names), "max_position_embeddings": 16, "eos_token_id": len(names) - 1}
    config = CLIPConfig(
        text_config={**sizes, **text, "bos_token_id": len(names) - 2, "pad_token_id": len(names) - 1},
        vision_config={**sizes, "image_size": 32, "patch_size": 8, **vision},
        projection_dim=12,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)  # so that different inputs have clearly different embeddings
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a random CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    save_tiny_clip(folder)
    return folder


@pytest.fixture
def make_clip() -> Callable[..., None]:
    """Returns a function that writes a random CLIP into a folder. Keywords change the image encoder."""
    return save_tiny_clip


@pytest.fixture(scope="session")
def image_reward_weights(golden: Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Returns the weights of the golden ImageReward under their published names."""
    recipe = golden("imagereward_tiny")[0]["weight_recipe"]
    weights = recipe_weights(**recipe)
    for entry in recipe["tensors"]:
        assert weights[entry["name"]].double().sum().item() == pytest.approx(entry["sum"], abs=1e-4)
    return weights


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a BERT tokenizer of 60 words, such as digits and letters."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [*special, *letters, *(f"##{letter}" for letter in letters)][:60]
    folder = tmp_path_factory.mktemp("bert")
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    return folder


@pytest.fixture
def sample() -> Callable[..., RewardInput]:
    """Returns a function that makes a sample of text to image from the seed of a noise image and a prompt."""

    def make(seed: int = 0, prompt: str = "a dog", size: tuple[int, int] = (32, 32)) -> RewardInput:
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        return RewardInput(prompt=prompt, completion="", task="t2i", image=Image.fromarray(noise))

    return make
