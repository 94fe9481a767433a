"""Grids of small images with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

IMAGES = "images"
"""Folder of a run's grids of generated images."""
RECONSTRUCTIONS = "reconstructions"
"""Folder of the grids of held-out images: the original, through the image tokenizer, and as the model predicts it."""
CELL_PIXELS = 128
"""Side of an image in a grid of a run, in pixels."""
GAP = 4
LINE = 12
"""Height of a line of text, in pixels."""
MAX_LINES = 4
CHARACTER_PIXELS = 5.8
"""Width of a character of a caption, in pixels."""


def captioned_grid(
    columns: Sequence[tuple[str, Sequence[np.ndarray | None]]], cell_pixels: int = CELL_PIXELS
) -> Image.Image:
    """Returns a grid with one column for each caption and its images below it.

    Args:
        columns: Captions with their images, uint8 (H, W, 3); None leaves a cell empty.
        cell_pixels: Side of an image in the grid.
    """
    texts = [textwrap.wrap(text, int(cell_pixels / CHARACTER_PIXELS))[:MAX_LINES] for text, _ in columns]
    cell = cell_pixels + GAP
    head = LINE * max(map(len, texts)) + GAP
    num_rows = max(len(images) for _, images in columns)
    page = Image.new("RGB", (len(columns) * cell, head + num_rows * cell), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=10)
    for column, (lines, (_, images)) in enumerate(zip(texts, columns, strict=True)):
        left = column * cell
        pen.multiline_text((left + 1, 1), "\n".join(lines), fill="black", font=font, spacing=1)
        for row, image in enumerate(images):
            if image is not None:
                page.paste(square(image, cell_pixels), (left, head + row * cell))
    return page


def stack_vertically(pages: Sequence[Image.Image]) -> tuple[Image.Image, int]:
    """Joins grids with the same captions into one: the captions once, and then the rows of every grid.

    Returns:
        The joined grid and the number of rows of each.
    """
    first = pages[0]
    num_rows, head = divmod(first.height, CELL_PIXELS + GAP)  # the captions are lower than a row
    height = first.height - head
    page = Image.new("RGB", (first.width, head + height * len(pages)), "white")
    page.paste(first, (0, 0))
    for i, other in enumerate(pages):
        page.paste(other.crop((0, head, other.width, other.height)), (0, head + i * height))
    return page, num_rows


def square(image: np.ndarray, side: int) -> Image.Image:
    """Resizes an image to a square, without interpolation where it becomes larger."""
    method = Image.Resampling.NEAREST if side >= max(image.shape[:2]) else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize((side, side), method)
