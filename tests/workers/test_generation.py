"""Tests the generation of samples, with prompts as tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer

from unigrpo.config import DataConfig, ImageSamplingConfig, TextSamplingConfig
from unigrpo.models.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.mmada_config import MMadaConfig
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt
from unigrpo.workers.generation import TaskSampler


def test_samples_of_one_prompt_encode_its_image_once(tiny_unified_folder, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(tiny_unified_folder)
    vocabulary = Vocabulary.from_pretrained_parts(MMadaConfig.from_pretrained(tiny_unified_folder), tokenizer)
    sampler = TaskSampler(
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        data=DataConfig(prompt_dataset="unused.jsonl"),
        image_tokenizer=load_image_tokenizer(str(Path(tiny_unified_folder) / "image_tokenizer")),
        resolution=16,
    )
    prompts: list[Prompt] = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        file = str(tmp_path / f"{number}.png")
        prompts.append(Prompt(id=str(number), text="what is it?", task="mmu", images=(file,)))
    num_encoded: list[int] = []
    encode = ImageTokenizer.encode

    def counted(self: ImageTokenizer, pixels: torch.Tensor) -> torch.Tensor:
        num_encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(ImageTokenizer, "encode", counted)
    requested = [prompts[0], prompts[1], prompts[1], prompts[0], prompts[1]]
    together = sampler.encode(requested)
    assert num_encoded == [2]
    apart = [sampler.encode([replace(prompt)])[0] for prompt in requested]
    assert all(torch.equal(one, other) for one, other in zip(together, apart, strict=True))
    assert not torch.equal(together[0], together[1])


def test_equal_samples_go_through_the_model_once(tiny_unified_folder):
    model = MMadaModelLM.from_pretrained(tiny_unified_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_unified_folder)
    vocabulary = Vocabulary.from_pretrained_parts(model.config, tokenizer)
    sampler = TaskSampler(tokenizer=tokenizer, vocabulary=vocabulary, data=DataConfig(prompt_dataset="unused.jsonl"))
    num_rows: list[int] = []

    def spy(tokens: torch.Tensor, **arguments: Any) -> Any:
        num_rows.append(len(tokens))
        return model(tokens, **arguments)

    prompts = [Prompt(id=str(i // 2), text=("1+1=", "2+2=")[i // 2], task="text") for i in range(4)]
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    settings = TextSamplingConfig(max_new_tokens=4, num_denoising_steps=4, block_length=4, temperature=1.0)
    sampler.generate(spy, prompts, settings, ImageSamplingConfig(), generators)
    assert num_rows[0] == 2, "two samples of each of two prompts"
    assert len(num_rows) == 4
