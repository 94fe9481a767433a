"""One sample of training data."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from unigrpo.data.bad_samples import BadSample
from unigrpo.data.images import read_image

Messages = tuple[tuple[str, str], ...]
"""Role and content of each turn; roles are system, user and assistant."""
Skipped = tuple[str, int]
"""Reason, and number in the source, of a sample that could not be used."""


@dataclass(frozen=True, kw_only=True)
class CorpusSample:
    """One sample before tokenization.

    >>> CorpusSample(key="books.jsonl:7", task="lm", text="Once upon a time").image is None
    True
    """

    key: str
    """File and line, or tar and member; every error about this sample names it."""
    task: str
    """Task: `t2i`, `lm`, `lm_chat`, `mmu` or `r2i`."""
    text: str = ""
    """Caption of `t2i`, document of `lm`."""
    messages: Messages = ()
    """Turns of `lm_chat`, `mmu` and `r2i`; the last is the assistant's, and in `r2i` holds the thoughts."""
    image: Image.Image | None = None
    """RGB image of `t2i`, `mmu` and `r2i`."""
    source: str = ""
    """Name of the source, set by the stream."""
    skipped: tuple[Skipped, ...] = ()
    """Unusable samples of its source that this one replaces, so that counts survive loader processes."""


def open_image(content: str | Path | bytes, where: str) -> Image.Image:
    """Opens an image in RGB.

    Args:
        content: A path, or the bytes of a file.
        where: File and line for errors.

    Raises:
        BadSample: It is missing, is not an image, or ends early.
    """
    try:
        return read_image(io.BytesIO(content) if isinstance(content, bytes) else content)
    except Exception as error:  # decoders fail on broken files in many ways, not all of them documented
        cause = error.__cause__ or error
        raise BadSample("broken image", f"{where}: no image could be read ({type(cause).__name__})") from error
