"""Pages of small pictures under the texts that they belong to."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DRAWINGS = "drawings"
"""Folder of a run's pages."""
CELL_PIXELS = 128
"""Pixels of a side of a picture on a page."""
GAP = 4
LINE = 12
"""Pixels of a line of text."""
MAX_LINES = 4
CHARACTERS = 22
"""Of a line, as wide as a picture."""


def captioned_grid(columns: Sequence[tuple[str, Sequence[np.ndarray | None]]]) -> Image.Image:
    """One column for each text, its pictures below one another.

    Args:
        columns: Texts and pictures, uint8 (H, W, 3); None leaves a place empty.
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
    """Pages of the same texts with one row of pictures each -> one page: the texts once, and every row."""
    first, *others = pages
    row = CELL_PIXELS + GAP
    page = Image.new("RGB", (first.width, first.height + row * len(others)), "white")
    page.paste(first, (0, 0))
    for i, other in enumerate(others):
        page.paste(other.crop((0, other.height - row, other.width, other.height)), (0, first.height + i * row))
    return page


def square(picture: np.ndarray) -> Image.Image:
    """A picture in the size of a page's, its pixels as they are."""
    return Image.fromarray(picture).resize((CELL_PIXELS, CELL_PIXELS), Image.Resampling.NEAREST)
