"""``samples.jsonl`` of an evaluation: every sample with its rewards. An interrupted evaluation resumes from this
file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from PIL import Image

from unigrpo import ConfigError
from unigrpo.config.typed_files import read_lines, replace_text
from unigrpo.records import RewardOutput, Rollout, SampleRequest

FILE = "samples.jsonl"
IMAGES = "images"
Key = tuple[int, str, int]
"""Number of the model, way of sampling, and number of the sample."""


class SampleRow(TypedDict):
    """The fields of a line that a resumed evaluation reads."""

    model_number: int
    kind: str
    sample: int
    prompt: str
    rewards: dict[str, float | None]
    reasons: dict[str, str]


class SampleFile:
    """Appends the samples of an evaluation to a file, and finds those that the file already contains."""

    def __init__(self, folder: Path) -> None:
        """Opens the file. A truncated last line is removed.

        Raises:
            ConfigError: Another line is not a sample.
        """
        self._folder = folder
        self._file = folder / FILE
        self.done: dict[Key, RewardOutput] = {}
        """Rewards of the samples in the file."""
        self._prompts: dict[Key, str] = {}
        advice = "delete this line, and its sample is generated again"
        rows = read_lines(self._file, SampleRow, ConfigError, advice)
        for _, row in rows:
            key = (row["model_number"], row["kind"], row["sample"])
            self.done[key] = RewardOutput(parts=row["rewards"], reasons=row["reasons"])
            self._prompts[key] = row["prompt"]
        replace_text(self._file, "".join(f"{line}\n" for line, _ in rows))

    def missing(self, model: int, kind: str, requests: Sequence[SampleRequest]) -> list[SampleRequest]:
        """Returns the samples that are not in the file.

        Args:
            model: Number of the checkpoint.
            kind: Way of sampling.
            requests: The samples of one checkpoint and way of sampling.

        Raises:
            ConfigError: A sample in the file answers another prompt, because the data set has changed.
        """
        for one in requests:
            found = self._prompts.get((model, kind, one.sample_id), one.prompt.text)
            if found != one.prompt.text:
                raise ConfigError(
                    f"{self._file}: sample {one.sample_id} is for the prompt {found[:60]!r}, and the data set now has "
                    f"{one.prompt.text[:60]!r} there; restore the data set, or name another folder"
                )
        return [one for one in requests if (model, kind, one.sample_id) not in self.done]

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
                self.done[key], self._prompts[key] = output, rollout.prompt.text

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
