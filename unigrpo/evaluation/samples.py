"""``samples.jsonl`` of an evaluation: every sample with its rewards, from which a broken-off evaluation goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from unigrpo.records import RewardOutput, Rollout

FILE = "samples.jsonl"
IMAGES = "images"
Key = tuple[int, str, int]
"""Number of the model, way of sampling, and number of the sample."""


class SampleFile:
    """Appends the samples of an evaluation to a file and knows those that are there."""

    def __init__(self, folder: Path) -> None:
        """Opens the file. A last line that was cut off is removed."""
        self._folder = folder
        self._file = folder / FILE
        self.done: dict[Key, RewardOutput] = {}
        """Rewards of the samples in the file."""
        lines: list[str] = []
        for line in self._file.read_text("utf-8").split("\n") if self._file.is_file() else ():
            try:
                row = json.loads(line)
                key = (row["model_number"], row["kind"], row["sample"])
                self.done[key] = RewardOutput(parts=row["rewards"], reasons=row["reasons"])
            except (ValueError, KeyError, TypeError):
                continue
            lines.append(line + "\n")
        self._file.write_text("".join(lines), "utf-8")

    def append(
        self, model: tuple[int, str], kind: str, rollouts: Sequence[Rollout], outputs: Sequence[RewardOutput]
    ) -> None:
        """Writes samples, and their images beside the file.

        Args:
            model: Number and name of the checkpoint.
            kind: Way of sampling.
            rollouts: The samples.
            outputs: Their rewards.
        """
        with self._file.open("a", encoding="utf-8") as lines:
            for rollout, output in zip(rollouts, outputs, strict=True):
                key = (model[0], kind, rollout.key.sample_id)
                lines.write(json.dumps(self._row(key, model[1], rollout, output)) + "\n")
                self.done[key] = output

    def _row(self, key: Key, model: str, rollout: Rollout, output: RewardOutput) -> dict[str, Any]:
        number, kind, sample = key
        prompt = rollout.prompt
        row: dict[str, Any] = {
            "model": model, "model_number": number, "kind": kind, "sample": sample, "prompt_id": prompt.id,
            "task": prompt.task, "prompt": prompt.text, "label": prompt.label, "completion": rollout.completion,
            "rewards": dict(output.parts), "reasons": dict(output.reasons),
        }  # fmt: skip
        if rollout.image is not None:
            (self._folder / IMAGES).mkdir(exist_ok=True)
            row["image"] = f"{IMAGES}/{number}_{kind}_{sample:06d}.png"
            Image.fromarray(rollout.image.pixels()).save(self._folder / row["image"])
        return row
