"""Conversion of image files to square pixels for the image tokenizer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from unigrpo.config import Fit
from unigrpo.data.embedded_images import EMBEDDED, embedded_bytes

WHITE = (255, 255, 255)


def image_pixels(paths: Sequence[str | Path], resolution: int, fit: Fit = "crop") -> Float[Tensor, "B 3 R R"]:
    """Returns square pixels in [-1, 1] of image files.

    Raises:
        ValueError: A file is missing or is not an image.
    """
    return torch.stack([square_pixels(read_image(path), resolution, fit) for path in paths])


def read_image(path: str | Path | BinaryIO) -> Image.Image:
    """Reads an image file, or an open one, in RGB, upright, and with white where it is transparent.

    Args:
        path: A file, or the name of an image in a table, see :mod:`unigrpo.data.embedded_images`.

    Raises:
        ValueError: The file is missing or is not an image, or its data ends early.
    """
    source = path
    if isinstance(path, str) and path.startswith(EMBEDDED):
        source = io.BytesIO(embedded_bytes(path))
    try:
        with Image.open(source) as opened:
            return _rgb(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # all of Pillow's
        raise ValueError(
            f"{path}: no image could be read ({type(error).__name__}: {error}); give a PNG, JPEG or WebP file"
        ) from error


def square_pixels(image: Image.Image, resolution: int, fit: Fit = "crop") -> Float[Tensor, "3 R R"]:
    """Returns an RGB image as a square of this size, in [-1, 1]; bicubic, on 8-bit values as in the original.

    Raises:
        ValueError: There is no such ``fit``.
    """
    size = (resolution, resolution)
    if fit == "crop":
        square = _crop(image, resolution)
    elif fit == "stretch":
        square = image.resize(size, Image.Resampling.BICUBIC)
    elif fit == "pad":
        square = _pad(image).resize(size, Image.Resampling.BICUBIC)
    else:
        raise ValueError(f"fit: no {fit!r}; choose one of ['crop', 'pad', 'stretch']")
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255 * 2 - 1


def _crop(image: Image.Image, resolution: int) -> Image.Image:
    short = min(image.size)
    width, height = (int(resolution * side / short) for side in image.size)
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + resolution, top + resolution))


def _pad(image: Image.Image) -> Image.Image:
    side = max(image.size)
    page = Image.new("RGB", (side, side), WHITE)
    page.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return page


def _rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB: transparency becomes white, and 16-bit grey is scaled, which Pillow's own conversion would
    clip."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        image = Image.fromarray(grey.astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    front = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), front).convert("RGB")
