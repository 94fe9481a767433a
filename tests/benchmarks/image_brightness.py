"""Rewards of benchmarks, which read one pixel of their image."""

from __future__ import annotations

from typing import Any


def red(*, completions: list[str], images: list[Any], **_: Any) -> list[float]:
    """Returns rewards that differ within every group."""
    pixels = [image.getpixel((0, 0)) for image in images]
    return [float(len(text) % 5 + pixel[0] % 3) for text, pixel in zip(completions, pixels, strict=True)]


def green(*, images: list[Any], **_: Any) -> list[float]:
    """Returns a second reward of the same images."""
    return [float(image.getpixel((0, 0))[1] % 4) for image in images]
