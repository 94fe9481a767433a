"""Conversion of image files to square pixels, with memory bounded by the image and the result."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageFile
from torch import Tensor

from unigrpo import DataError
from unigrpo.config import Fit
from unigrpo.data.embedded_images import EMBEDDED, embedded_bytes, shown_name
from unigrpo.data.files import check_regular

WHITE = (255, 255, 255)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Image formats that are read. Some other formats of Pillow start programs, such as Ghostscript for EPS."""
OBJECT_NAME = re.compile(r"(?: file)? <[\w.]+ object at 0x[0-9a-f]+>")
"""Pillow's name of an image without a file, which is removed from messages."""
MAX_PIXELS = 100_000_000
MAX_RATIO = 10_000
"""Largest ratio of the long side to the short side."""
ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that turns an image upright, for each orientation of the EXIF standard."""
MARGIN = 3
"""Pixels next to a padded image, of the larger of source and result, that are computed; bicubic reaches two."""
MAX_INTERMEDIATE = 2**24
"""Largest number of pixels between the two passes of a resize."""


def image_pixels(paths: Sequence[str | Path], resolution: int, fit: Fit) -> Float[Tensor, "B 3 R R"]:
    """Returns square pixels in [-1, 1] of image files.

    Raises:
        ValueError: A file is missing or is not an image.
    """
    return torch.stack([square_pixels(read_image(path), resolution, fit) for path in paths])


def read_image(path: str | Path | io.BytesIO) -> Image.Image:
    """Reads an image file, or an open one, in RGB, upright, and with white where it is transparent.

    Args:
        path: A file, or the name of an image in a table, see :mod:`unigrpo.data.embedded_images`.

    Raises:
        ValueError: The file is missing, is no image of :data:`FORMATS`, is too large or broken, or has values without
            a known range.
    """
    source = path
    if isinstance(path, str) and path.startswith(EMBEDDED):
        source = io.BytesIO(embedded_bytes(path))
    try:
        if isinstance(source, (str, Path)):
            check_regular(Path(source))
        with Image.open(source, formats=FORMATS) as opened:
            _check_size(opened.size)
            opened.load()
            return _rgb(_upright(opened))
    except FileNotFoundError as error:
        raise DataError(
            f"{shown_name(str(path))}: no image could be read, since there is no such file; correct the path, or "
            "restore the file"
        ) from error
    except Exception as error:  # decoders fail on broken files in many ways, not all of them documented
        reason = OBJECT_NAME.sub("", str(error))
        raise DataError(
            f"{shown_name(str(path))}: no image could be read ({type(error).__name__}: {reason}); give a PNG, JPEG or "
            "WebP file"
        ) from error


def square_pixels(image: Image.Image, resolution: int, fit: Fit) -> Float[Tensor, "3 R R"]:
    """Returns an RGB image as a square of this size, in [-1, 1]; bicubic, on 8-bit values as in the original.

    Raises:
        ValueError: There is no such ``fit``.
    """
    return normalized(square_bytes(image, resolution, fit))


def square_bytes(image: Image.Image, resolution: int, fit: Fit) -> UInt8[Tensor, "3 R R"]:
    """Returns an RGB image as a square of this size, as the 8-bit values of :func:`square_pixels`."""
    if fit == "crop":
        square = _crop(image, resolution)
    elif fit == "stretch":
        square = _resize(image, (resolution, resolution))
    elif fit == "pad":
        square = _pad(image, resolution)
    else:
        raise DataError(f"fit: no {fit!r}; choose one of ['crop', 'pad', 'stretch']")
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def normalized(pixels: UInt8[Tensor, "*B 3 R R"]) -> Float[Tensor, "*B 3 R R"]:
    """Returns 8-bit values as numbers in [-1, 1]."""
    return pixels.float() / 255 * 2 - 1


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if min(size) < 1:
        raise DataError(f"{width} x {height} pixels")
    if width * height > MAX_PIXELS or max(size) > MAX_RATIO * min(size):
        raise DataError(
            f"{width} x {height} pixels, more than {MAX_PIXELS} in all or {MAX_RATIO} times as long as wide; scale it "
            "down first"
        )


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    """Returns the image turned by its EXIF orientation. Other EXIF data, which may be broken, is ignored."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # EXIF that cannot be parsed at all asks for nothing
        return image
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _crop(image: Image.Image, resolution: int) -> Image.Image:
    """Returns the middle of the image, resized by its short side; only the middle is computed."""
    short = min(image.size)
    width, height = (int(resolution * side / short) for side in image.size)
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    x, y = image.width / width, image.height / height
    return _resize(
        image, (resolution, resolution), (left * x, top * y, (left + resolution) * x, (top + resolution) * y)
    )


def _pad(image: Image.Image, resolution: int) -> Image.Image:
    """Returns the image in the middle of a white square, resized; only a strip with the image is computed."""
    is_tall = image.height > image.width
    long, short = max(image.size), min(image.size)
    scale, before = long / resolution, (long - short) // 2
    margin = math.ceil(MARGIN / min(scale, 1))
    first = max(int(before / scale) - margin, 0)
    last = min(int((before + short) / scale) + 1 + margin, resolution)
    start, end = int(first * scale), min(math.ceil(last * scale), long)
    low, high = first * scale - start, min(last * scale, end) - start
    page = Image.new("RGB", (resolution, resolution), WHITE)
    # The long side is resized first, so that the strip is as long as the result.
    if is_tall:
        strip = Image.new("RGB", (end - start, resolution), WHITE)
        strip.paste(image.resize((short, resolution), Image.Resampling.BICUBIC), (before - start, 0))
        box = (low, 0, high, resolution)
        page.paste(strip.resize((last - first, resolution), Image.Resampling.BICUBIC, box), (first, 0))
    else:
        strip = Image.new("RGB", (resolution, end - start), WHITE)
        strip.paste(image.resize((resolution, short), Image.Resampling.BICUBIC), (0, before - start))
        box = (0, low, resolution, high)
        page.paste(strip.resize((resolution, last - first), Image.Resampling.BICUBIC, box), (0, first))
    return page


def _resize(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Resizes the image or a box of it with Pillow's bicubic filter.

    Pillow resizes the width before the height. If that would need more memory than :data:`MAX_INTERMEDIATE`, the
    height is resized first.
    """
    left, top, right, bottom = box or (0, 0, image.width, image.height)
    if image.width < size[0] and size[0] * (bottom - top) > MAX_INTERMEDIATE:
        rows = image.resize((image.width, size[1]), Image.Resampling.BICUBIC, (0, top, image.width, bottom))
        return rows.resize(size, Image.Resampling.BICUBIC, (left, 0, right, size[1]))
    return image.resize(size, Image.Resampling.BICUBIC, (left, top, right, bottom))


def _rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB of 8 bits; transparency becomes white.

    Pillow's own conversion clips 16-bit grey and floats at 255; both are scaled here.

    Raises:
        ValueError: Values of floats or 32-bit integers lie outside of the range that is scaled.
    """
    if image.mode == "F":
        image = _grey(np.asarray(image), 1.0, "floating-point values")
    elif image.mode.startswith("I"):
        image = _grey(np.asarray(image).astype(np.int64), 65535, "integer values")
    if not image.has_transparency_data:
        return image.convert("RGB")
    front = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), front).convert("RGB")


def _grey(values: np.ndarray, largest: float, what: str) -> Image.Image:
    """Returns an 8-bit grey image of values between 0 and ``largest``."""
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= largest:
        raise DataError(f"{what} from {low:g} to {high:g}, expected 0 to {largest:g}; save it with 8 bits a colour")
    scaled = values // 257 if largest > 1 else np.rint(values * 255)
    return Image.fromarray(scaled.astype(np.uint8))
