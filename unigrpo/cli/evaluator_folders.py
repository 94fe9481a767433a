"""Folders of images as the evaluators GenEval, DPG-Bench and WISE read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from unigrpo import DataError
from unigrpo.data.bad_samples import shown_columns
from unigrpo.data.images import read_image
from unigrpo.records import Prompt

ID_KEYS = {"dpg": "item_id", "wise": "prompt_id"}
"""Column of a prompt file that names the image of a prompt."""


def check_layout(layout: str, prompts: Sequence[Prompt]) -> None:
    """Raises DataError if a prompt lacks the column by which an evaluator finds its image."""
    key = ID_KEYS.get(layout)
    for prompt in prompts:
        if key is not None and str(prompt.metadata.get(key, "")).strip() in ("", ".", ".."):
            found = shown_columns(prompt.metadata)
            raise DataError(f"{prompt.id}: layout {layout!r} needs a column {key!r}; found {found}")


def write_layout(layout: str, folder: Path, samples: Sequence[tuple[Prompt, Sequence[Path]]]) -> Path | None:
    """Writes the images of a finished generation in the layout of an evaluator.

    Args:
        layout: `geneval`, `dpg`, `wise`, or `none`, which writes nothing.
        folder: The output folder of the command.
        samples: Each prompt with the files of its images.

    Returns:
        The folder to give to the evaluator.
    """
    if layout == "none":
        return None
    target = folder / layout
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for number, (prompt, files) in enumerate(samples):
        if layout == "geneval":
            _write_geneval(target / f"{number:05d}", prompt, files)
        elif layout == "dpg":
            _two_by_two(files).save(target / _file_name(prompt, "item_id"))
        else:
            shutil.copy(files[0], target / _file_name(prompt, "prompt_id"))
    return target


def _write_geneval(folder: Path, prompt: Prompt, files: Sequence[Path]) -> None:
    """Writes the prompt's own line, which holds what the evaluator looks for, beside its images."""
    (folder / "samples").mkdir(parents=True)
    line: dict[str, Any] = {**prompt.metadata, "prompt": prompt.text}
    (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    for number, file in enumerate(files):
        shutil.copy(file, folder / "samples" / f"{number:05d}.png")


def _two_by_two(files: Sequence[Path]) -> Image.Image:
    """Returns up to four images in rows of two; one image alone stays as it is."""
    images = [read_image(file) for file in files]
    if len(images) == 1:
        return images[0]
    width, height = images[0].size
    page = Image.new("RGB", (2 * width, 2 * height))
    for number, image in enumerate(images):
        page.paste(image, (number % 2 * width, number // 2 * height))
    return page


def _file_name(prompt: Prompt, key: str) -> str:
    return str(prompt.metadata[key]).replace("/", "_") + ".png"
