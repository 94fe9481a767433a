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
from unigrpo.models.sampling.image import ImageSample, sample_images
from unigrpo.models.sampling.text import TextSample, sample_text
from unigrpo.models.sampling.think_then_draw import think_then_draw
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The sample of one prompt: text, image or both."""

    text: TextSample | None = None
    image: ImageSample | None = None

    def row(self) -> dict[str, Tensor]:
        """Returns tokens, masks, steps and log-probabilities of the whole row, in the form of a Rollout.

        Thoughts stand before their image in the image's row; the steps of the image are numbered after theirs.
        """
        recorded = ("commit_log_probs", "commit_entropy")
        names = ("token_ids", "response_mask", "scored_mask", "commit_step", *recorded)
        if self.image is None:
            assert self.text is not None, "nothing was generated"
            text = {name: getattr(self.text, name) for name in names}
            return {**text, "image_mask": torch.zeros_like(self.text.response_mask)}
        image = {name: getattr(self.image, name) for name in names}
        if self.text is not None:
            room = len(self.image.token_ids) - len(self.text.token_ids)
            steps = torch.nn.functional.pad(self.text.commit_step, (0, room), value=-1)
            drawn = image["commit_step"] >= 0
            image["commit_step"] = torch.where(drawn, image["commit_step"] + steps.max() + 1, steps)
            for name in ("response_mask", "scored_mask"):
                image[name] = image[name] | torch.nn.functional.pad(getattr(self.text, name), (0, room))
            for name in recorded:
                image[name] = image[name] + torch.nn.functional.pad(getattr(self.text, name), (0, room))
        return {**image, "image_mask": self.image.response_mask}


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

    def draw(
        self,
        model: Callable[..., Any],
        prompts: Sequence[Prompt],
        text: TextSamplingConfig,
        image: ImageSamplingConfig,
        generators: Sequence[torch.Generator],
    ) -> list[Drawn]:
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
        # No task but t2i trains without a condition, so its empty prompt guides r2i too.
        unconditional = [t2i_unconditional_prompt(self.vocabulary)] * len(prompts)
        if task == "t2i":
            images = sample_images(
                model, ids, image, self.vocabulary, generators=generators, unconditional=unconditional
            )
            return [Drawn(image=one) for one in images]
        if task == "r2i":
            both = think_then_draw(
                model, ids, text, image, self.vocabulary, generators=generators, unconditional=unconditional,
                max_text_tokens=self.max_text_tokens,
            )  # fmt: skip
            return [Drawn(text=one.thought, image=one.image) for one in both]
        texts = sample_text(model, ids, text, self.vocabulary, generators=generators)
        return [Drawn(text=one) for one in texts]

    def encode(self, prompts: Sequence[Prompt]) -> list[Int[Tensor, " P"]]:
        """Returns the prompts of one task as tokens."""
        codes: Sequence[Tensor | None] = [None] * len(prompts)
        if prompts[0].task == "mmu":
            codes = list(self._image_tokenizer().encode(self._pixels(prompts)).cpu())
        return [
            encode_prompt(prompt, self.tokenizer, self.vocabulary, self.data, image)
            for prompt, image in zip(prompts, codes, strict=True)
        ]

    def completion(self, drawn: Drawn) -> str:
        """Returns the generated text; empty without one."""
        return self._decode(drawn, keep_end_of_turn=False)

    def raw_completion(self, drawn: Drawn) -> str:
        """Returns the generated text up to the first end-of-text; empty without text."""
        return self._decode(drawn, keep_end_of_turn=True)

    def is_full_length(self, drawn: Drawn) -> bool:
        """Whether the generated text has no end-of-text; False without text."""
        if drawn.text is None:
            return False
        return bool((drawn.text.token_ids[drawn.text.response_mask] != self.vocabulary.end_of_text_id).all())

    def _decode(self, drawn: Drawn, *, keep_end_of_turn: bool) -> str:
        if drawn.text is None:
            return ""
        tokens, response = drawn.text.token_ids, drawn.text.response_mask
        return decode_completion(tokens, response, self.tokenizer, self.vocabulary, keep_end_of_turn=keep_end_of_turn)

    def pictures(self, drawn: Sequence[Drawn]) -> list[Image.Image | None]:
        """Returns the generated images, decoded in one pass of the image tokenizer; None for samples without an
        image."""
        codes = [one.image.codes for one in drawn if one.image is not None]
        found = iter(self._image_tokenizer().codes_to_images(torch.stack(codes)) if codes else ())
        return [None if one.image is None else next(found) for one in drawn]

    def _pixels(self, prompts: Sequence[Prompt]) -> Tensor:
        return image_pixels([prompt.images[0] for prompt in prompts], self.resolution, self.fit)

    def _image_tokenizer(self) -> ImageTokenizer:
        if self.image_tokenizer is None:
            raise ConfigError("the task has images, but there is no image tokenizer; name its folder")
        return self.image_tokenizer
