"""Settings of a stage of pretraining or Mix-CoT as frozen dataclasses: modalities, their sources and their losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, get_args

from unigrpo.config.base import BaseRunConfig, BaseTrainConfig, CheckpointConfig
from unigrpo.config.checks import require, within
from unigrpo.config.corpora import CorpusTask, LayoutConfig, SourceConfig
from unigrpo.config.model import ActorConfig
from unigrpo.config.paths import InputPaths, OutputPath
from unigrpo.config.rollout import ImageSamplingConfig, TextSamplingConfig, check_image_steps, check_text_steps

MODALITIES: tuple[str, ...] = get_args(CorpusTask)
"""The kinds of rows: text to image, plain text, chat, image understanding, and thinking before text to image."""


@dataclass(frozen=True, kw_only=True)
class ModalityConfig:
    batch_size: int = 0
    """Number of rows of this modality in one optimizer step, over all ranks; 0 leaves the modality out."""
    loss_coef: float = 1.0
    """Factor of this modality's loss in the total loss."""
    sources: dict[str, SourceConfig] = field(default_factory=dict[str, SourceConfig])
    """Sources of the rows, under names that you choose. `lm_chat` also accepts sources of task `lm`."""


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    image_schedule: str = "cosine"
    """Schedule that maps a uniform random number to the fraction of image tokens that are masked in a `t2i` row."""
    min_image_mask_ratio: float = 0.0
    """Smallest fraction of image tokens that are masked in a `t2i` row."""
    train_end_padding: bool = True
    """Whether the end-of-text tokens that pad a text are masked, trained on and attended to, as in MMaDA and LLaDA. If
    false, every token after the first end-of-text is padding that is neither trained on nor attended to."""

    def __post_init__(self) -> None:
        within("noise.min_image_mask_ratio", self.min_image_mask_ratio, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class StageTrainConfig(BaseTrainConfig):
    num_steps: int = 1000
    """Number of optimizer steps."""
    micro_batch_size: int = 8
    """Number of rows of one forward and backward pass on one rank."""
    num_loader_workers: int = 0
    """Number of processes per rank that read and decode samples ahead; 0 reads them in the rank's own process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_loader_workers >= 0, f"train.num_loader_workers is {self.num_loader_workers}; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    steps: int = 0
    """Validate every this many steps, and before and after training; 0 validates only before and after."""
    num_rows: int = 64
    """Number of held-out rows of each modality on which the loss is measured; 0 measures no loss."""
    prompts: InputPaths = ""
    """JSONL file of fixed prompts of any tasks, with `task`, `prompt` and, for `mmu`, `image`. A sample is generated
    for each at every validation. If empty, no samples are generated."""
    t2i: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources of text-to-image rows. `batch_size` and `loss_coef` have no effect here."""
    lm: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources of plain-text rows."""
    lm_chat: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources of chat rows."""
    mmu: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources of image-understanding rows."""
    r2i: ModalityConfig = field(default_factory=ModalityConfig)
    """Held-out sources of rows with thoughts before an image."""
    text: TextSamplingConfig = field(default_factory=TextSamplingConfig)
    """Sampling of text answers."""
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    """Sampling of images. Each image is generated with this guidance scale and without guidance."""

    def __post_init__(self) -> None:
        check_text_steps("validation.text.", self.text)
        check_image_steps("validation.image.", self.image)


def _check_tasks(name: str, sources: dict[str, SourceConfig]) -> None:
    allowed = ("lm", "lm_chat") if name == "lm_chat" else (name,)
    for source, config in sources.items():
        require(
            config.task in allowed,
            f"{name}.sources.{source}: task {config.task!r}, expected one of {list(allowed)}",
        )


@dataclass(frozen=True, kw_only=True)
class StageConfig(BaseRunConfig):
    """One stage of pretraining or Mix-CoT."""

    title: ClassVar[str] = "stage"

    run_dir: OutputPath = "runs/stage"
    """Folder to which the run writes all its files."""
    actor: ActorConfig = field(default_factory=ActorConfig)
    """The model and its optimizer. The stage starts from `model_name_or_path`."""
    t2i: ModalityConfig = field(default_factory=ModalityConfig)
    """Text to image: a caption is the condition and the image is the target."""
    lm: ModalityConfig = field(default_factory=ModalityConfig)
    """Plain text, all of which is the target."""
    lm_chat: ModalityConfig = field(default_factory=ModalityConfig)
    """Chat, in which the last answer is the target."""
    mmu: ModalityConfig = field(default_factory=ModalityConfig)
    """Image understanding: images with questions or with a request for a caption; the answer is the target."""
    r2i: ModalityConfig = field(default_factory=ModalityConfig)
    """Thinking before text to image: a request is the condition; the thoughts and the image are targets."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    """Lengths and chat template of the rows."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Masking of the rows."""
    train: StageTrainConfig = field(default_factory=StageTrainConfig)
    """Steps, batches and seed."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Measurements and samples on held-out data."""
    ckpt: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(best_metric_key=""))
    """Saving and resuming."""

    def __post_init__(self) -> None:
        require(self.run_dir != "", "run_dir is empty; name the folder of the run")
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
        """The modalities that are trained, with their settings."""
        return {name: getattr(self, name) for name in MODALITIES if getattr(self, name).batch_size}

    @property
    def max_text_tokens(self) -> int | None:
        """Number of text tokens of a row of r2i, which samplers of the trained model need; None without this
        modality."""
        return self.layout.max_text_tokens if "r2i" in self.modalities else None

    @property
    def num_samples_per_step(self) -> int:
        """Number of rows of all modalities in one optimizer step."""
        return sum(modality.batch_size for modality in self.modalities.values())

    @property
    def num_optimizer_steps(self) -> int:
        """Number of optimizer steps of the whole run."""
        return self.train.num_steps
