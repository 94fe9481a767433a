"""Models and inputs of the benchmarks: a small model for a CPU, and the published 8B shape for a GPU.

Weights are random. The small model has about the published ratio of vocabulary to width, so that the head takes a
realistic part of the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.vocabulary import PUBLISHED_IDS, PUBLISHED_TOKENIZER_LENGTH, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model and inputs for it."""

    name: str
    model: dict[str, Any]
    dtype: torch.dtype
    vocabulary: Vocabulary
    text: TextSamplingConfig
    image: ImageSamplingConfig
    text_prompts: tuple[int, ...]
    """Number of tokens of each prompt of a text batch."""
    image_prompts: tuple[int, ...]
    """Number of tokens of each prompt of an image batch."""
    max_text_tokens: int
    """Maximum length of the prompt of an image, to which the plain code pads; the published S."""
    rounds: int
    """Number of timed repetitions."""

    @property
    def width(self) -> int:
        """Returns the width of the hidden states."""
        return MMadaConfig(**self.model).d_model

    @property
    def num_ids(self) -> int:
        """Returns the number of token ids of text, images and special tokens."""
        return MMadaConfig(**self.model).vocab_size

    @property
    def row_length(self) -> int:
        """Returns the number of tokens of a row of the published layout: task token, text, start, image, end."""
        return self.max_text_tokens + self.image.num_image_tokens + 3

    @property
    def device(self) -> torch.device:
        """Returns the GPU if there is one, and otherwise the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def build(self, attention: str = "sdpa") -> MMadaModelLM:
        """Returns the model with random weights, created on the device, in evaluation mode."""
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                return MMadaModelLM(MMadaConfig(**self.model, attn_implementation=attention)).eval()
        finally:
            torch.set_default_dtype(before)

    def generators(self, count: int) -> list[torch.Generator]:
        """Returns a generator for each sample, with the same seeds in every call."""
        return [torch.Generator(self.device).manual_seed(row) for row in range(count)]

    def text_tokens(self, lengths: Sequence[int]) -> list[Tensor]:
        """Returns prompts of random text tokens."""
        draws = torch.Generator().manual_seed(1)
        return [torch.randint(100, 10_000, (length,), generator=draws) for length in lengths]

    def image_tokens(self, lengths: Sequence[int]) -> list[Tensor]:
        """Returns prompts that end in start-of-image."""
        end = torch.tensor([self.vocabulary.end_of_text_id, self.vocabulary.soi_id])
        start = torch.tensor([self.vocabulary.t2i_id, self.vocabulary.begin_of_text_id])
        return [torch.cat([start, text, end]) for text in self.text_tokens([length - 4 for length in lengths])]

    def empty_image_tokens(self) -> Tensor:
        """Returns the unconditional prompt."""
        v = self.vocabulary
        return torch.tensor([v.t2i_id, v.begin_of_text_id, v.end_of_text_id, v.soi_id])


def vocabulary(ids: dict[str, int], image_offset: int, codebook_size: int) -> Vocabulary:
    """Returns a vocabulary without a tokenizer."""
    special = {f"{name}_id": value for name, value in ids.items()}
    return Vocabulary(**special, end_header_id=None, image_offset=image_offset, codebook_size=codebook_size)


SIZES = {
    "small": Size(
        name="small",
        model={
            "d_model": 256,
            "n_layers": 6,
            "n_heads": 8,
            "mlp_hidden_size": 768,
            "vocab_size": 16384 + 1024,
            "mask_token_id": list(PUBLISHED_IDS).index("mask"),
        },
        dtype=torch.float32,
        vocabulary=vocabulary({name: i for i, name in enumerate(PUBLISHED_IDS)}, 16384, 1024),
        text=TextSamplingConfig(max_new_tokens=64, num_denoising_steps=32, block_length=16),
        image=ImageSamplingConfig(num_image_tokens=256, num_denoising_steps=15, guidance_scale=3.5),
        text_prompts=(32, 20),
        image_prompts=(12, 20),
        max_text_tokens=128,
        rounds=2,
    ),
    "8b": Size(
        name="8b",
        model={},
        dtype=torch.bfloat16,
        vocabulary=vocabulary(PUBLISHED_IDS, PUBLISHED_TOKENIZER_LENGTH, 8192),
        text=TextSamplingConfig(max_new_tokens=256, num_denoising_steps=128, block_length=32),
        image=ImageSamplingConfig(num_image_tokens=1024, num_denoising_steps=15, guidance_scale=3.5),
        text_prompts=(128, 96, 64, 112, 128, 80, 120, 100),
        image_prompts=(40, 64),
        max_text_tokens=512,
        rounds=3,
    ),
}


def chosen_size(description: str) -> Size:
    """Returns the size that the command line selects."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="8b needs a GPU with 80 GB")
    size = SIZES[parser.parse_args().size]
    if size.name == "8b" and size.device.type != "cuda":
        parser.error("the 8B model needs a GPU; --size small runs anywhere")
    return size
