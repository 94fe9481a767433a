"""Sampling for thinking before text to image: first the thoughts as text, then the image after prompt and thoughts.

The row is the same as in training: task token, request, thoughts, end-of-text ..., start-of-image, codes,
end-of-image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.models.sampling.image import check_arguments, sample_images
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Trajectory


def sample_thoughts_and_images(
    model: Callable[..., Any],
    prompts: Sequence[Int[Tensor, " _P"]],
    text_settings: TextSamplingConfig,
    image_settings: ImageSamplingConfig,
    vocabulary: Vocabulary,
    *,
    generators: Sequence[torch.Generator],
    unconditional: Sequence[Int[Tensor, " _Q"]] | None = None,
    max_text_tokens: int | None = None,
) -> list[Trajectory]:
    """Generates thoughts for each prompt, and then the image that they describe.

    While the thoughts are sampled, the masked image follows them, as in training. A sample depends only on its own
    prompt and generator, and not on the rest of the batch.

    Args:
        model: The forward pass of :class:`~unigrpo.models.mmada.MMadaModelLM`.
        prompts: Token ids of B requests, see :func:`unigrpo.data.layouts.r2i_prompt`.
        text_settings: Sampling settings of the thoughts.
        image_settings: Sampling settings of the image.
        vocabulary: Special ids and the range of the image codes.
        generators: One generator per prompt, on the CPU or the model's device.
        unconditional: For guidance of the image, as in :func:`~unigrpo.models.sampling.image.sample_images`.
        max_text_tokens: Number of text tokens S of training, to which end-of-text pads request and thoughts. None: one
            end-of-text ends the thoughts.

    Raises:
        ValueError: A request and its thoughts do not fit into ``max_text_tokens``, or one of the two samplers raises.
    """
    check_arguments(prompts, image_settings, vocabulary, generators, unconditional, None)
    for number, prompt in enumerate(prompts):
        needed = len(prompt) + text_settings.max_new_tokens  # the task token is no text, end-of-text is
        if max_text_tokens is not None and needed > max_text_tokens:
            raise ConfigError(
                f"prompt {number} needs {needed} text tokens with max_new_tokens {text_settings.max_new_tokens} and "
                f"end-of-text, more than max_text_tokens {max_text_tokens}; shorten it, or lower max_new_tokens"
            )
    closings = [_closing(len(p) + text_settings.max_new_tokens, vocabulary, max_text_tokens) for p in prompts]
    image = torch.tensor([vocabulary.mask_id] * image_settings.num_image_tokens + [vocabulary.eoi_id])
    thoughts = sample_text(
        model,
        prompts,
        text_settings,
        vocabulary,
        generators=generators,
        suffixes=[torch.cat([closing, image]) for closing in closings],
    )
    images = sample_images(
        model,
        [torch.cat([t.token_ids, c]) for t, c in zip(thoughts, closings, strict=True)],
        image_settings,
        vocabulary,
        generators=generators,
        unconditional=unconditional,
    )
    return [thought.followed_by(image) for thought, image in zip(thoughts, images, strict=True)]


def _closing(length: int, vocabulary: Vocabulary, max_text_tokens: int | None) -> Tensor:
    """Returns the tokens that follow ``length`` tokens of request and thoughts: end-of-text ..., start-of-image."""
    num_ends = 1 if max_text_tokens is None else max_text_tokens + 1 - length
    return torch.tensor([vocabulary.end_of_text_id] * num_ends + [vocabulary.soi_id])
