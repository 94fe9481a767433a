"""The images and the texts of a batch of samples, checked, and slices of them that fit on a device.

This module imports no torch, because a reward without a model needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from PIL import Image

from rewards.base import RewardInput

Item = TypeVar("Item")
IMAGE_TASKS = ("t2i", "r2i")
"""Tasks whose samples are images."""


def generated_image(item: RewardInput, index: int) -> Image.Image:
    """Returns the generated image of the sample at this index of the batch.

    Raises:
        ValueError: It is missing, empty, or not RGB; the message names the sample.
    """
    image: object = item.image
    if image is None:
        raise ValueError(f"{describe(item, index)} has no generated image; this reward scores only images")
    if not isinstance(image, Image.Image):
        raise ValueError(f"{describe(item, index)}: the image is a {type(image).__name__}, not a PIL image")
    if 0 in image.size:
        raise ValueError(f"{describe(item, index)}: the image is empty, {image.width} x {image.height} pixels")
    if image.mode != "RGB":
        raise ValueError(
            f"{describe(item, index)}: the image has mode {image.mode!r}, expected 'RGB'; use .convert('RGB')"
        )
    return image


def image_and_prompt(item: RewardInput, index: int) -> tuple[Image.Image, str]:
    """Returns the generated image of a sample, and the text that it should fit.

    This text is the prompt. A prompt of task ``r2i`` may be a riddle ("the tallest animal"); its label, if it has one,
    names the content of the image ("a giraffe") and replaces the prompt.

    Raises:
        ValueError: As :func:`generated_image`; or the prompt is empty.
    """
    prompt: object = item.prompt
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{describe(item, index)} has no prompt to compare its image with")
    return generated_image(item, index), (item.label if item.task == "r2i" else None) or prompt


def check_image_prompt(prompt: RewardInput) -> None:
    """Checks a prompt before there are samples.

    Raises:
        ValueError: Its samples are not images, or it is empty.
    """
    if prompt.task not in IMAGE_TASKS:
        raise ValueError(f"task {prompt.task!r} generates no image; this reward scores {' and '.join(IMAGE_TASKS)}")
    if not prompt.prompt.strip():
        raise ValueError("the prompt is empty; this reward compares it with the image")


def slices(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Returns parts of at most ``size`` items, in order.

    >>> list(slices("abcde", 2))
    ['ab', 'cd', 'e']
    """
    return (items[start : start + size] for start in range(0, len(items), size))


def require_batch_size(batch_size: int) -> int:
    """Returns the batch size if it is valid.

    Raises:
        ValueError: It is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; a batch needs at least 1 image")
    return batch_size


def describe(item: RewardInput, index: int) -> str:
    """Returns the name of a sample for messages."""
    return f"sample {index} of the batch (task {item.task!r}, prompt {str(item.prompt)[:60]!r})"
