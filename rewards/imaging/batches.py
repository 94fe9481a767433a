"""The pictures and the texts of a batch of samples, checked, and slices of them that fit on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from PIL import Image

from rewards.base import RewardInput

Item = TypeVar("Item")
PICTURE_TASKS = ("t2i", "r2i")
"""Tasks whose samples are pictures."""


def generated_picture(item: RewardInput, index: int) -> Image.Image:
    """The generated picture of the sample at a place of the batch.

    Raises:
        ValueError: It is missing, empty, or not RGB; the message names the sample.
    """
    picture: object = item.image
    if picture is None:
        raise ValueError(f"{describe(item, index)} has no generated picture; this reward scores only pictures")
    if not isinstance(picture, Image.Image):
        raise ValueError(f"{describe(item, index)}: the picture is a {type(picture).__name__}, not a PIL image")
    if 0 in picture.size:
        raise ValueError(f"{describe(item, index)}: the picture is empty, {picture.width} x {picture.height} pixels")
    if picture.mode != "RGB":
        raise ValueError(
            f"{describe(item, index)}: the picture has mode {picture.mode!r}, expected 'RGB'; use .convert('RGB')"
        )
    return picture


def picture_and_prompt(item: RewardInput, index: int) -> tuple[Image.Image, str]:
    """The generated picture of a sample, and the text that it should fit.

    That is the prompt. A prompt of task ``r2i`` may say it in riddles ("the tallest animal"); its label, if it has
    one, is what to see ("a giraffe") and takes the prompt's place.

    Raises:
        ValueError: As :func:`generated_picture`; or the prompt is empty.
    """
    prompt: object = item.prompt
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f"{describe(item, index)} has no prompt to compare its picture with")
    return generated_picture(item, index), (item.label if item.task == "r2i" else None) or prompt


def check_picture_prompt(prompt: RewardInput) -> None:
    """Checks a prompt before there are samples.

    Raises:
        ValueError: Its samples are no pictures, or it says nothing.
    """
    if prompt.task not in PICTURE_TASKS:
        raise ValueError(f"task {prompt.task!r} makes no picture; this reward takes {' and '.join(PICTURE_TASKS)}")
    if not prompt.prompt.strip():
        raise ValueError("the prompt is empty; this reward compares it with the picture")


def slices(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Parts of at most ``size`` items, in order.

    >>> list(slices("abcde", 2))
    ['ab', 'cd', 'e']
    """
    return (items[start : start + size] for start in range(0, len(items), size))


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU that this process sees, else the CPU; other names are torch's."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def require_batch_size(batch_size: int) -> int:
    """Returns it.

    Raises:
        ValueError: Below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; a batch needs at least 1 picture")
    return batch_size


def describe(item: RewardInput, index: int) -> str:
    """How a message names a sample."""
    return f"sample {index} of the batch (task {item.task!r}, prompt {str(item.prompt)[:60]!r})"
