"""The folder of a stage: what every run writes, and the samples and pictures of its validations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from unigrpo.evaluation.denoising import ValidationResult
from unigrpo.runs.directory import RunDirectory
from unigrpo.runs.image_grid import CELL_PIXELS, captioned_grid, square
from unigrpo.workers.denoising import Reconstruction, Sample

LABEL = 14
"""Pixels of a line of text in the pages."""


class DenoisingRunDirectory(RunDirectory):
    """The stage trainer's :class:`~unigrpo.trainers.denoising.StageOutput`."""

    title = "stage"

    def shown(self, values: dict[str, float]) -> dict[str, str]:
        losses = {name.removeprefix("loss/"): f"{v:.3f}" for name, v in values.items() if name.startswith("loss/")}
        return {**losses, "s/step": f"{values['time/step_seconds']:.2f}"}

    def results(self, step: int, results: ValidationResult) -> None:
        """Writes texts to ``rollouts.jsonl`` and pictures below ``validation/``, and shows both in TensorBoard."""
        self.rollouts(step, [_row(sample) for sample in results.samples])
        drawn = [sample for sample in results.samples if sample.image is not None]
        pages: dict[str, Image.Image] = {}
        if drawn:
            pages["drawn"] = generated_images_page(drawn)
        if results.reconstructions:
            pages["reconstructions"] = reconstruction_page(results.reconstructions)
        folder = Path(self.path) / "validation"
        folder.mkdir(exist_ok=True)
        for name, page in pages.items():
            page.save(folder / f"step_{step:08d}_{name}.png")
        answers = [sample for sample in results.samples if sample.text]
        self._writer.write_texts(
            step,
            "validation/answers",
            [{"task": s.prompt.task, "prompt": s.prompt.text, "answer": s.text} for s in answers],
        )
        self._writer.write_pictures(step, {f"validation/{name}": np.asarray(page) for name, page in pages.items()})


def generated_images_page(samples: list[Sample]) -> Image.Image:
    """One column for each prompt: drawn with guidance, and below without."""
    return captioned_grid([(sample.prompt.text, (sample.image, sample.image_unguided)) for sample in samples])


def reconstruction_page(reconstructions: list[Reconstruction]) -> Image.Image:
    """One row for each picture: original, reconstruction, prediction, and the mask ratio."""
    page = Image.new("RGB", (3 * (CELL_PIXELS + 4), len(reconstructions) * (CELL_PIXELS + LABEL)), "white")
    for row, one in enumerate(reconstructions):
        top = row * (CELL_PIXELS + LABEL)
        text = f"original, reconstruction, prediction at mask ratio {one.mask_ratio:.2f}"
        ImageDraw.Draw(page).text((1, top + 1), text, fill="black")
        for column, picture in enumerate((one.original, one.reconstruction, one.prediction)):
            page.paste(square(picture), (column * (CELL_PIXELS + 4), top + LABEL))
    return page


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "kind": "validation",
        "task": sample.prompt.task,
        "prompt_id": sample.prompt.id,
        "prompt": sample.prompt.text,
        "label": sample.prompt.label,
        "completion": sample.text,
    }
