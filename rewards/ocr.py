"""Reward for images that show the text of their prompt, as an OCR model reads it."""

from __future__ import annotations

import importlib
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from PIL import Image

from rewards.base import Reward, RewardInput
from rewards.imaging.batches import check_image_prompt, generated_image
from rewards.loading import find_callable

MAX_LENGTH = 2000
"""Largest number of characters that are compared."""
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')
Reader = Callable[[Image.Image], str]


class Ocr(Reward):
    """1 minus the edit distance between the text in the image and the requested text, relative to the length of the
    requested text; at least 0.

    The requested text is the gold answer, or otherwise the text in double quotes in the prompt, joined by spaces. Case
    and spaces are ignored. The extra `unigrpo[ocr]` installs the OCR model, RapidOCR with the weights of PaddleOCR.

    Args:
        allow_more: Whether an image that shows the requested text and more has the reward 1, as in Flow-GRPO. If
            false, additional text counts as errors.
        reader: Your own OCR model: ``package.module:function`` or ``path/to/file.py:function``, which returns the text
            of a PIL image. If empty, RapidOCR is used.

    Source:
        Flow-GRPO, arXiv:2505.05470, section 4.1 (visual text rendering).
    """

    name = "ocr"
    range = (0.0, 1.0)
    unit = "1 minus the normalized edit distance"
    is_costly = True

    def __init__(self, allow_more: bool = True, reader: str = "") -> None:
        if reader and reader.count(":") != 1:
            raise ValueError(
                f"ocr: reader is {reader!r}; expected package.module:function or path/to/file.py:function"
            )
        self._allow_more, self._reader_name = allow_more, reader

    def load(self) -> None:
        _ = self._read

    @cached_property
    def _read(self) -> Reader:
        if not self._reader_name:
            return rapid_ocr()
        return find_callable(self._reader_name)

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [
            accuracy(self._read(generated_image(item, number)), wanted_text(item), allow_more=self._allow_more)
            for number, item in enumerate(inputs)
        ]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_image_prompt(prompt)
        if not _compared(wanted_text(prompt)):
            raise ValueError(
                'the prompt requests no text; put the text into double quotes ("..."), or give it as gold answer'
            )


def wanted_text(item: RewardInput) -> str:
    """Returns the text that an image should show.

    >>> wanted_text(RewardInput(prompt='A sign that says "Open" and "24 h"', completion="", task="t2i"))
    'Open 24 h'
    """
    return item.label or " ".join(first or second for first, second in _QUOTED.findall(item.prompt))


def accuracy(read: str, wanted: str, *, allow_more: bool = True) -> float:
    """Returns 1 minus the edit distance of two texts over the length of the second one, and 0 for larger distances.

    >>> accuracy("He1lo", "hello"), accuracy("Hello World", "hello"), accuracy("", "hello")
    (0.8, 1.0, 0.0)
    """
    found, target = _compared(read), _compared(wanted)
    if allow_more and target in found:
        return 1.0
    return 1.0 - min(edit_distance(found, target), len(target)) / len(target)


def edit_distance(a: str, b: str) -> int:
    """Returns the smallest number of characters to insert, delete or replace that makes two texts equal.

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def rapid_ocr() -> Reader:
    """Returns the OCR model of the package rapidocr, whose weights are part of the package.

    Raises:
        ValueError: The package is not installed.
    """
    try:
        package = importlib.import_module("rapidocr")
    except ImportError as error:
        raise ValueError(f"ocr: {error}; install it by: pip install 'unigrpo[ocr]'") from error
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)  # it reports every image without text
    # The processes of a reward share the CPUs, so that each takes one thread.
    threads = {f"EngineConfig.onnxruntime.{kind}_op_num_threads": 1 for kind in ("intra", "inter")}
    engine = package.RapidOCR(params={"Global.log_level": "error", **threads})

    def read(image: Image.Image) -> str:
        blue_green_red = np.asarray(image.convert("RGB"))[:, :, ::-1]
        return " ".join(engine(blue_green_red).txts or ())

    return read


def _compared(text: str) -> str:
    """Returns a text without spaces and in one case, with one spelling of equal characters."""
    return "".join(unicodedata.normalize("NFKC", text[:MAX_LENGTH]).casefold().split())
