"""Grids of small images with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DRAWINGS = "drawings"
"""Folder of a run's image grids."""
CELL_PIXELS = 128
"""Side of an image in a grid, in pixels."""
GAP = 4
LINE = 12
"""Height of a line of text, in pixels."""
MAX_LINES = 4
CHARACTERS = 22
"""Number of characters of a line of text as wide as an image."""


def captioned_grid(columns: Sequence[tuple[str, Sequence[np.ndarray | None]]]) -> Image.Image:
    """Returns a grid with one column for each caption and its images below it.

    Args:
        columns: Captions with their images, uint8 (H, W, 3); None leaves a cell empty.
    """
    texts = [textwrap.wrap(text, CHARACTERS)[:MAX_LINES] for text, _ in columns]
    head = LINE * max(map(len, texts)) + GAP
    num_rows = max(len(pictures) for _, pictures in columns)
    page = Image.new("RGB", (len(columns) * (CELL_PIXELS + GAP), head + num_rows * (CELL_PIXELS + GAP)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=10)
    for column, (lines, (_, pictures)) in enumerate(zip(texts, columns, strict=True)):
        left = column * (CELL_PIXELS + GAP)
        pen.multiline_text((left + 1, 1), "\n".join(lines), fill="black", font=font, spacing=1)
        for row, picture in enumerate(pictures):
            if picture is not None:
                page.paste(square(picture), (left, head + row * (CELL_PIXELS + GAP)))
    return page


def stack_vertically(pages: Sequence[Image.Image]) -> Image.Image:
    """Joins grids of one row with the same captions into one grid: the captions once, and then every row."""
    first, *others = pages
    row = CELL_PIXELS + GAP
    page = Image.new("RGB", (first.width, first.height + row * len(others)), "white")
    page.paste(first, (0, 0))
    for i, other in enumerate(others):
        page.paste(other.crop((0, other.height - row, other.width, other.height)), (0, first.height + i * row))
    return page


def square(picture: np.ndarray) -> Image.Image:
    """Resizes an image to the size of a cell without interpolation."""
    return Image.fromarray(picture).resize((CELL_PIXELS, CELL_PIXELS), Image.Resampling.NEAREST)
