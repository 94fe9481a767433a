"""Size of an image as a JPEG, a reward for images that needs no weights."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from rewards.base import Reward, RewardInput
from rewards.imaging.batches import check_image_prompt, generated_image

RANGES = {"small": (float("-inf"), 0.0), "large": (0.0, float("inf"))}


class JpegSize(Reward):
    """Size of the generated image in kilobytes (1000 bytes), negative if small images are preferred.

    Args:
        prefer: ``small`` (compressible, smooth images) or ``large`` (incompressible, detailed ones).
        quality: Quality of the JPEG, 1 to 95.

    Source:
        DDPO, arXiv:2305.13301, section 5.1.
    """

    name = "jpeg_size"
    range = RANGES["small"]
    unit = "kilobytes of the JPEG, times -1"

    def __init__(self, prefer: str = "small", quality: int = 95) -> None:
        if prefer not in RANGES:
            raise ValueError(f"jpeg_size: no preference {prefer!r}; choose one of {sorted(RANGES)}")
        if not 1 <= quality <= 95:
            raise ValueError(f"jpeg_size: quality is {quality}, expected 1 to 95")
        self._sign = -1.0 if prefer == "small" else 1.0
        self._quality = quality
        self.range = RANGES[prefer]
        self.unit = self.unit if prefer == "small" else "kilobytes of the JPEG"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [self._sign * kilobytes(generated_image(item, i), self._quality) for i, item in enumerate(inputs)]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_image_prompt(prompt)


def kilobytes(image: Image.Image, quality: int) -> float:
    """Returns the size of an image as a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.tell() / 1000
