"""A pretraining or Mix-CoT stage as frozen dataclasses: which modalities, from which sources, with which losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from unigrpo.config import (
    ActorConfig,
    CheckpointConfig,
    DeepSpeedConfig,
    ImageConfig,
    ImageSamplingConfig,
    LoggerConfig,
    TextSamplingConfig,
)
from unigrpo.config.checks import positive, require, within
from unigrpo.config.corpora import LayoutConfig, SourceConfig

MODALITIES = ("t2i", "lm", "lm_chat", "mmu", "r2i")
"""Text-to-image, plain text, chat, image understanding, and thinking before drawing."""


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    batch_size: int = 0
    """Rows of one optimizer step over all ranks; 0 leaves the modality out."""
    loss_coef: float = 1.0
    """Factor of this modality's loss in the total."""
    sources: dict[str, SourceConfig] = field(default_factory=dict[str, SourceConfig])
    """Where the rows come from, by names of your own. `lm_chat` also takes sources of task `lm`."""


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    image_schedule: str = "cosine"
    """How the share of hidden image tokens follows from a uniform draw, in t2i."""
    min_image_mask_ratio: float = 0.0
    """Lower bound of that share."""
    train_end_padding: bool = True
    """Whether the end-of-text tokens that fill up a text are hidden, trained and seen, as MMaDA and LLaDA do. If
    false, everything behind the first one is padding and does not count."""

    def __post_init__(self) -> None:
        within("noise.min_image_mask_ratio", self.min_image_mask_ratio, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class StageTrainConfig:
    num_steps: int = 1000
    """Optimizer steps."""
    micro_batch_size: int = 8
    """Rows of one forward and backward pass on one rank."""
    num_loader_workers: int = 0
    """Processes of each rank that read and decode ahead; 0 reads in the rank itself."""
    seed: int = 42
    """All random draws follow from it."""

    def __post_init__(self) -> None:
        positive("train.num_steps", self.num_steps)
        positive("train.micro_batch_size", self.micro_batch_size)
        require(self.num_loader_workers >= 0, f"train.num_loader_workers is {self.num_loader_workers}; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    steps: int = 0
    """Validate every so many steps, besides before and after; 0 does only those two."""
    num_rows: int = 64
    """Held-out rows of each modality whose loss is measured; 0 measures none."""
    prompts: str = ""
    """Fixed prompts of all tasks, JSONL with `task`, `prompt` and, for mmu, `image`; empty generates nothing."""
    t2i: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources; `batch_size` and `loss_coef` mean nothing here."""
    lm: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources."""
    lm_chat: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources."""
    mmu: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources."""
    r2i: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources."""
    text: TextSamplingConfig = field(default_factory=TextSamplingConfig)
    """Sampling of answers."""
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    """Sampling of images; they are drawn with this guidance and without."""


def _check_tasks(name: str, sources: dict[str, SourceConfig]) -> None:
    allowed = ("lm", "lm_chat") if name == "lm_chat" else (name,)
    for source, config in sources.items():
        require(
            config.task in allowed,
            f"{name}.sources.{source}: task {config.task!r}, expected one of {list(allowed)}",
        )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of pretraining or Mix-CoT."""

    run_dir: str = "runs/stage"
    """Folder of everything that the run writes."""
    image: ImageConfig = field(default_factory=ImageConfig)
    """Images and their tokenizer."""
    actor: ActorConfig = field(default_factory=ActorConfig)
    """The model and its optimizer. `model_name_or_path` is what the stage starts from."""
    t2i: ModalityConfig = field(default_factory=ModalityConfig)
    """Captions to images."""
    lm: ModalityConfig = field(default_factory=ModalityConfig)
    """Plain text."""
    lm_chat: ModalityConfig = field(default_factory=ModalityConfig)
    """Chat; the last turn is the target."""
    mmu: ModalityConfig = field(default_factory=ModalityConfig)
    """Images with questions, or with a request for a caption; the answer is the target."""
    r2i: ModalityConfig = field(default_factory=ModalityConfig)
    """Requests, thoughts and images; thoughts and images are targets."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    """Lengths and template of the rows."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """What is hidden."""
    train: StageTrainConfig = field(default_factory=StageTrainConfig)
    """Steps, batches and seed."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """What is looked at while training."""
    ckpt: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(best_metric_key=""))
    """Saving and resuming."""
    ds: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    """DeepSpeed."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Where metrics go."""

    def __post_init__(self) -> None:
        require(
            bool(self.modalities),
            f"no modality has a batch_size; set one of {[f'{m}.batch_size' for m in MODALITIES]}",
        )
        ranks = self.actor.num_ranks
        for name, modality in self.modalities.items():
            require(modality.batch_size > 0, f"{name}.batch_size is {modality.batch_size}; it must be 0 or more")
            require(
                modality.batch_size % ranks == 0,
                f"{name}.batch_size {modality.batch_size} does not divide over {ranks} ranks; make it a multiple",
            )
            require(bool(modality.sources), f"{name}.batch_size is {modality.batch_size}, but {name}.sources is empty")
            _check_tasks(name, modality.sources)

    @property
    def modalities(self) -> dict[str, ModalityConfig]:
        """The modalities that are trained."""
        return {name: getattr(self, name) for name in MODALITIES if getattr(self, name).batch_size}

    @property
    def seed(self) -> int:
        """Of all random draws."""
        return self.train.seed

    @property
    def num_samples_per_step(self) -> int:
        """Rows of all modalities."""
        return sum(modality.batch_size for modality in self.modalities.values())

    @property
    def num_optimizer_steps(self) -> int:
        """Of the whole run."""
        return self.train.num_steps

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, as written to ``config.yaml``."""
        return dataclasses.asdict(self)
