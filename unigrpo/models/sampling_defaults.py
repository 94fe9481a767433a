"""``sampling.json`` of an exported policy, which contains the sampling settings of its run. Commands and
``Policy.sample`` use them as defaults."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from unigrpo import CheckpointError
from unigrpo.config import (
    DataConfig,
    Fit,
    ImageConfig,
    ImageSamplingConfig,
    PromptTemplate,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
)
from unigrpo.config.checks import positive, within
from unigrpo.config.denoising import StageConfig
from unigrpo.config.typed_files import build, read_json

FILE = "sampling.json"
NOT_OF_THE_POLICY = ("num_image_tokens", "cache")
"""Settings that follow from others, or change only the speed."""

ADVICE = "export the policy again, or delete the file and give the settings as flags"

Sampling = TypeVar("Sampling", TextSamplingConfig, ImageSamplingConfig)


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """Sampling settings of a policy."""

    resolution: int = 512
    """Height and width of images, in pixels."""
    fit: Fit = "crop"
    """How an input image becomes square."""
    prompt_template: PromptTemplate = "chat"
    prompt_templates: dict[str, PromptTemplate] = field(default_factory=dict[str, PromptTemplate])
    """Templates by task, if the tasks have different ones."""
    instruction: str = ""
    instructions: dict[str, str] = field(default_factory=dict[str, str])
    """Instructions by task, if the tasks have different ones."""
    max_text_tokens: int = 0
    """Number of text tokens before an image in `r2i`; 0 takes it from the policy's config.json."""
    text: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of text sampling, by the names of TextSamplingConfig."""
    image: dict[str, Any] = field(default_factory=dict[str, Any])
    """Settings of image sampling, by the names of ImageSamplingConfig."""

    @classmethod
    def of_run(cls, config: RunConfig | StageConfig) -> SamplingDefaults:
        """Returns the sampling settings of a run: those of the rollouts of a UniGRPO run, or of the validation of a
        stage."""
        if isinstance(config, RunConfig):
            return cls._of(config.image, config.data, config.rollout)
        data = DataConfig(prompt_template=config.layout.template)
        return cls._of(config.image, data, RolloutConfig(text=config.validation.text, image=config.validation.image))

    @classmethod
    def _of(cls, image: ImageConfig, data: DataConfig, rollout: RolloutConfig) -> SamplingDefaults:
        return cls(
            resolution=image.resolution,
            fit=image.fit,
            prompt_template=data.prompt_template,
            prompt_templates=dict(data.prompt_templates),
            instruction=data.instruction,
            instructions=dict(data.instructions),
            max_text_tokens=rollout.max_text_tokens,
            text=_settings(rollout.text),
            image=_settings(rollout.image),
        )

    def write(self, folder: str | Path) -> None:
        """Writes the file into the folder of a policy."""
        (Path(folder) / FILE).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> SamplingDefaults | None:
        """Returns the settings in the folder of a policy; None if it has no such file.

        Raises:
            CheckpointError: The file cannot be read, or lacks a setting.
        """
        file = Path(folder) / FILE
        if not file.is_file():
            return None
        values = read_json(file, dict[str, Any], CheckpointError, ADVICE)
        known = {field.name for field in fields(cls)}
        try:
            found = build(cls, {name: value for name, value in values.items() if name in known})
            positive("resolution", found.resolution)
            within("max_text_tokens", found.max_text_tokens, 0, math.inf)
            for name in ("prompting", "text_sampling", "image_sampling"):  # these configs check the ranges
                getattr(found, name)()
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}; {ADVICE}") from error
        return found

    def prompting(self) -> DataConfig:
        """Returns the templates and instructions of prompts."""
        return DataConfig(
            prompt_template=self.prompt_template,
            prompt_templates=self.prompt_templates,
            instruction=self.instruction,
            instructions=self.instructions,
        )

    def text_sampling(self) -> TextSamplingConfig:
        """Returns the settings of text sampling."""
        return _known(TextSamplingConfig, self.text)

    def image_sampling(self) -> ImageSamplingConfig:
        """Returns the settings of image sampling; the number of image tokens follows from the resolution."""
        return _known(ImageSamplingConfig, self.image)

    def flags(self, task: str = "") -> dict[str, Any]:
        """Returns the settings under the names of the flags of ``generate`` and ``demo``.

        Args:
            task: Task whose template and instruction all tasks get; empty keeps those of each task.
        """
        data = self.prompting()
        return {
            "resolution": self.resolution,
            "fit": self.fit,
            "prompt_template": data.template_of(task),
            "instruction": data.instruction_of(task),
            "prompt_templates": self.prompt_templates,
            "instructions": self.instructions,
            "max_text_tokens": self.max_text_tokens,
            **{f"text.{name}": value for name, value in self.text.items()},
            **{f"image.{name}": value for name, value in self.image.items()},
        }


def _known(kind: type[Sampling], values: dict[str, Any]) -> Sampling:
    """Returns the settings that this version knows, as :meth:`SamplingDefaults.read` does."""
    names = {field.name for field in fields(kind)}
    return build(kind, {name: value for name, value in values.items() if name in names})


def _settings(sampling: TextSamplingConfig | ImageSamplingConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(sampling).items() if name not in NOT_OF_THE_POLICY}
