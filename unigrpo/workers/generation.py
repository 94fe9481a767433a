"""Generation of samples of any task: the prompt's layout, the sampler, and decoding to text and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unigrpo import ConfigError
from unigrpo.config import DataConfig, Fit, ImageSamplingConfig, TextSamplingConfig
from unigrpo.data.images import image_pixels
from unigrpo.data.layouts import t2i_unconditional_prompt
from unigrpo.data.prompting import decode_completion, encode_prompt
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.sampling.equal_rows import EqualRowsOnce
from unigrpo.models.sampling.image import sample_images
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.sampling.thoughts_and_image import sample_thoughts_and_images
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt, Trajectory


@dataclass(frozen=True, kw_only=True)
class TaskSampler:
    """Everything that generation needs except the weights."""

    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    data: DataConfig
    """Template and instruction of the prompts."""
    image_tokenizer: ImageTokenizer | None = None
    """Image tokenizer, which every task but text needs."""
    resolution: int = 256
    """Height and width of input images, in pixels."""
    fit: Fit = "stretch"
    """How an input image becomes square."""
    max_text_tokens: int | None = None
    """Largest number of tokens of request and thoughts before an image (r2i); None allows any number."""

    @property
    def num_image_tokens(self) -> int:
        """Number of codes of one image; 1 without an image tokenizer, because then no image is generated."""
        return (self.resolution // self.image_tokenizer.downscale) ** 2 if self.image_tokenizer else 1

    def generate(
        self,
        model: Callable[..., Any],
        prompts: Sequence[Prompt],
        text: TextSamplingConfig,
        image: ImageSamplingConfig,
        generators: Sequence[torch.Generator],
    ) -> list[Trajectory]:
        """Generates one sample for each prompt.

        Args:
            model: The forward pass.
            prompts: Prompts of one task.
            text: Sampling settings of text.
            image: Sampling settings of images.
            generators: One generator per prompt.

        Raises:
            ValueError: See the samplers and :func:`~unigrpo.data.prompting.encode_prompt`.
        """
        task = prompts[0].task
        ids = self.encode(prompts)
        model = EqualRowsOnce(model)
        # No task but t2i trains without a condition, so its empty prompt guides r2i too.
        unconditional = [t2i_unconditional_prompt(self.vocabulary)] * len(prompts)
        if task == "t2i":
            return sample_images(
                model, ids, image, self.vocabulary, generators=generators, unconditional=unconditional
            )
        if task == "r2i":
            return sample_thoughts_and_images(
                model, ids, text, image, self.vocabulary, generators=generators, unconditional=unconditional,
                max_text_tokens=self.max_text_tokens,
            )  # fmt: skip
        return sample_text(model, ids, text, self.vocabulary, generators=generators)

    def encode(self, prompts: Sequence[Prompt]) -> list[Int[Tensor, " P"]]:
        """Returns the prompts of one task as tokens."""
        distinct = list({id(prompt): prompt for prompt in prompts}.values())  # the samples of a group share a prompt
        codes: Sequence[Tensor | None] = [None] * len(distinct)
        if prompts[0].task == "mmu":
            codes = list(self._image_tokenizer().encode(self._pixels(distinct)).cpu())
        encoded = {
            id(prompt): encode_prompt(prompt, self.tokenizer, self.vocabulary, self.data, image)
            for prompt, image in zip(distinct, codes, strict=True)
        }
        return [encoded[id(prompt)] for prompt in prompts]

    def completion(self, sample: Trajectory) -> str:
        """Returns the generated text, cut at the first token that ends the turn or the text; empty without text."""
        return self._decode(sample, keep_end_of_turn=False)

    def raw_completion(self, sample: Trajectory) -> str:
        """Returns the generated text up to the first end-of-text; empty without text."""
        return self._decode(sample, keep_end_of_turn=True)

    def is_full_length(self, sample: Trajectory) -> bool:
        """Whether the generated text has no end-of-text; False without text."""
        text = sample.token_ids[sample.text_mask]
        return len(text) > 0 and bool((text != self.vocabulary.end_of_text_id).all())

    def _decode(self, sample: Trajectory, *, keep_end_of_turn: bool) -> str:
        if not sample.text_mask.any():
            return ""
        return decode_completion(
            sample.token_ids, sample.text_mask, self.tokenizer, self.vocabulary, keep_end_of_turn=keep_end_of_turn
        )

    def images(self, samples: Sequence[Trajectory]) -> list[Image.Image | None]:
        """Returns the generated images, decoded in one pass of the image tokenizer; None for samples without an
        image."""
        codes = [self.vocabulary.image_codes(s.token_ids[s.image_mask]) for s in samples if s.image_mask.any()]
        images = iter(self._image_tokenizer().codes_to_images(torch.stack(codes)) if codes else ())
        return [next(images) if sample.image_mask.any() else None for sample in samples]

    def _pixels(self, prompts: Sequence[Prompt]) -> Tensor:
        return image_pixels([prompt.images[0] for prompt in prompts], self.resolution, self.fit)

    def _image_tokenizer(self) -> ImageTokenizer:
        if self.image_tokenizer is None:
            raise ConfigError("the task has images, but there is no image tokenizer; name its folder")
        return self.image_tokenizer
