"""Settings that UniGRPO and the stages of pretraining and Mix-CoT share."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unigrpo.config.checks import positive, require, valid_seed
from unigrpo.config.data import ImageConfig
from unigrpo.config.model import ActorConfig, DeepSpeedConfig
from unigrpo.config.paths import OutputPath

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class BaseTrainConfig:
    num_steps: int
    """Number of steps."""
    micro_batch_size: int
    """Number of samples of one forward and backward pass on one rank."""
    seed: int = 42
    """Seed of all random numbers of the run."""
    collective_timeout_minutes: float = 15.0
    """Longest time in minutes that a rank waits for the others in a collective operation (NCCL, gloo) before the run
    ends with an error. A rank must be able to write its part of a checkpoint in that time."""

    def __post_init__(self) -> None:
        positive("train.collective_timeout_minutes", self.collective_timeout_minutes)
        positive("train.num_steps", self.num_steps)
        positive("train.micro_batch_size", self.micro_batch_size)
        valid_seed("train.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    path: OutputPath = ""
    """Folder of the checkpoints; if empty, `checkpoints` in the run directory."""
    save_steps: int = 20
    """Save a checkpoint every this many steps; 0 saves only at the end."""
    max_num: int = 2
    """Number of latest checkpoints to keep, in addition to the best one."""
    load_enable: bool | Literal["auto"] = "auto"
    """Whether to resume from the newest complete checkpoint, if there is one. `auto` resumes if the settings are those
    of the run in run_dir, so that a scheduler may start the same command again; docs/checkpointing.md lists the
    settings that may differ. `true` resumes even if settings differ, and lists them. `false` is an error if run_dir
    already holds a run."""
    export_steps: int = 0
    """Write the model folder `policy` every this many steps and at the end; 0 writes it only at the end. `unigrpo
    export` writes one from any checkpoint."""
    best_metric_key: str = "eval/reward_total"
    """Metric that selects the best checkpoint; higher is better."""

    def __post_init__(self) -> None:
        require(self.save_steps >= 0, f"ckpt.save_steps is {self.save_steps}; it must be 0 or more")
        require(self.export_steps >= 0, f"ckpt.export_steps is {self.export_steps}; it must be 0 or more")
        positive("ckpt.max_num", self.max_num)


@dataclass(frozen=True, kw_only=True)
class LoggerConfig:
    tensorboard: bool = True
    """Write TensorBoard files into the run directory."""
    wandb_project: str = ""
    """Weights & Biases project; if empty, nothing is sent. The key is the environment variable WANDB_API_KEY."""
    rollouts_per_step: int = 1
    """Number of samples of each step that are written to rollouts.jsonl."""

    def __post_init__(self) -> None:
        require(self.rollouts_per_step >= 0, f"logger.rollouts_per_step is {self.rollouts_per_step}; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class BaseRunConfig(ABC):
    """Settings that the run directory, the model workers and the checks of every kind of run read."""

    title: ClassVar[str]
    """Name of the kind of run, for the progress bar."""

    run_dir: OutputPath
    """Folder to which the run writes all its files."""
    image: ImageConfig = field(default_factory=ImageConfig)
    """Image tokenizer, and size of the images."""
    actor: ActorConfig = field(default_factory=ActorConfig)
    """The model and its optimizer."""
    train: BaseTrainConfig
    """Steps, batches and seed."""
    ckpt: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving and resuming."""
    ds: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    """DeepSpeed, precision, attention and LoRA."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Destinations of metrics and samples."""

    @property
    @abstractmethod
    def num_samples_per_step(self) -> int:
        """Number of samples of one step over all ranks."""

    @property
    @abstractmethod
    def num_optimizer_steps(self) -> int:
        """Number of optimizer steps of the whole run."""

    @property
    def seed(self) -> int:
        """Seed of all random numbers of the run."""
        return self.train.seed

    @property
    def max_text_tokens(self) -> int | None:
        """Number of text tokens before an image in the rows of the run; None keeps the number of the checkpoint."""
        return None

    @classmethod
    def from_yaml(cls, file: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Returns the config of a YAML file, with the checks and errors of the commands.

        Relative paths in the file stay relative to the working directory of the process.

        Args:
            file: The YAML file, such as ``launch/configs/tiny_text.yaml``.
            overrides: Values that replace those of the file, by dotted name: ``{"train.num_steps": 1}``.

        Raises:
            ConfigError: The file cannot be read, or a name or value is wrong.
        """
        from unigrpo.config.parsing import config_from_yaml  # noqa: PLC0415  # loads jsonargparse

        return config_from_yaml(cls, file, overrides or {})

    def to_dict(self) -> dict[str, Any]:
        """Returns the plain nested dictionary that is written to ``config.yaml``."""
        return dataclasses.asdict(self)
