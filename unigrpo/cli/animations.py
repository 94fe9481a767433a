"""Animations of the denoising of generated samples."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 4
GREY = (128, 128, 128)
STEP_MILLISECONDS, LAST_MILLISECONDS = 200, 2000
MASKED = "_"
COLUMNS, LINE_PIXELS, CHARACTER_PIXELS = 80, 14, 7


def image_frames(image: Image.Image, commit_step: Int[Tensor, " N"]) -> list[Image.Image]:
    """Returns the finished image at each step, with a grey square for every code that was not kept yet.

    Args:
        image: A square image.
        commit_step: Step at which each code was kept, row by row. The first frame is before the first of them.
    """
    side = math.isqrt(len(commit_step))
    frames = []
    for step in range(int(commit_step.min()) - 1, int(commit_step.max()) + 1):
        masked = (commit_step > step).reshape(side, side).to(torch.uint8) * 255
        mask = Image.fromarray(masked.numpy()).resize(image.size, Image.Resampling.NEAREST)
        frames.append(Image.composite(Image.new("RGB", image.size, GREY), image, mask))
    return frames


def text_frames(tokens: Sequence[str], commit_step: Int[Tensor, " R"]) -> list[Image.Image]:
    """Returns the text at each step, with :data:`MASKED` for every token that was not fixed yet.

    Args:
        tokens: Text of each token.
        commit_step: Step at which each token was fixed; -1 for padding that was never sampled, which is not shown.
    """
    shown = [(token, step) for token, step in zip(tokens, commit_step.tolist(), strict=True) if step >= 0]
    texts = [
        "".join(token if at <= step else MASKED for token, at in shown)
        for step in range(-1, max((at for _, at in shown), default=-1) + 1)
    ]
    pages = [[part for line in text.split("\n") for part in textwrap.wrap(line, COLUMNS) or [""]] for text in texts]
    size = (COLUMNS * CHARACTER_PIXELS + 2 * GAP, max(len(page) for page in pages) * LINE_PIXELS + 2 * GAP)
    font = ImageFont.load_default(size=12)
    frames = []
    for page in pages:
        frames.append(Image.new("RGB", size, "white"))
        ImageDraw.Draw(frames[-1]).multiline_text((GAP, GAP), "\n".join(page), fill="black", font=font, spacing=2)
    return frames


def save_gif(frames: Sequence[Image.Image], file: Path) -> None:
    """Writes an animation that repeats and shows its last frame longer."""
    durations = [STEP_MILLISECONDS] * (len(frames) - 1) + [LAST_MILLISECONDS]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=durations, loop=0)
