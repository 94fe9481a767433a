"""Settings of the commands that use a finished model: ``unigrpo generate`` and ``unigrpo demo``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unigrpo import ConfigError
from unigrpo.config.checks import valid_seed
from unigrpo.config.data import IMAGE_OUTPUT_TASKS, DataConfig, Fit, PromptTemplate, Task
from unigrpo.config.rollout import ImageSamplingConfig, TextSamplingConfig, check_text_steps

Dtype = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Settings of ``unigrpo generate``."""

    task: Task
    """Task: `text` (text reasoning), `mmu` (image understanding), `t2i` (text to image) or `r2i` (thinking, then text
    to image)."""
    model: str
    """Folder or Hub name of a checkpoint in the published MMaDA or LLaDA format."""
    prompts: str
    """Prompts: a text; a .txt file with one prompt per line; a .jsonl file with a column `prompt`, and for mmu
    `image`; or a folder of .txt files with one prompt each. If the file has a column `task`, only the lines of this
    task are used."""
    output: str
    """Folder to write to. If it already has some samples with the same settings, the command generates only the
    others."""
    images: tuple[str, ...] = ()
    """Image files for mmu: one for each prompt, or one for all prompts, or several images that all get the same
    prompt."""
    image_tokenizer: str = ""
    """Folder or Hub name of the image tokenizer, such as showlab/magvitv2. If empty, it is the folder
    `image_tokenizer` of the model."""
    resolution: int = 512
    """Height and width of input and generated images, in pixels. It must be a multiple of the pixels per code, 16 for
    the published image tokenizer."""
    fit: Fit = "crop"
    """How an input image becomes square: `crop` keeps the middle, `stretch` resizes both sides, `pad` adds white."""
    text: TextSamplingConfig = field(default_factory=TextSamplingConfig)
    """Sampling of text."""
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    """Sampling of images."""
    num_samples: int = 1
    """Number of samples per prompt."""
    batch_size: int = 8
    """Number of samples that are generated together. It affects speed and memory, but not the samples."""
    seed: int = 0
    """Seed of the first sample. Sample number i, from 0, uses seed + i, which samples.jsonl records."""
    max_text_tokens: int = 0
    """Largest number of text tokens of a prompt, for r2i together with its thoughts; a longer prompt is an error. 0
    uses the number in the model's config.json, or 512 if it has none."""
    prompt_template: PromptTemplate = "chat"
    """How a prompt becomes tokens: `chat` applies the tokenizer's chat template, `chat_one_newline` that of MMaDA,
    `chat_two_newlines` that of LLaDA, and `plain` none. Captions of t2i have no template."""
    instruction: str = ""
    """Text that is put before every prompt except captions of t2i, for example a request to think first."""
    device: str = "auto"
    """Device of the model: `auto` uses the GPU if there is one; other values are cpu, cuda, cuda:1 ..."""
    dtype: Dtype = "auto"
    """Type of the weights; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    gif: bool = False
    """Whether to write an animation of the denoising of each sample, too."""
    layout: Literal["none", "geneval", "dpg", "wise"] = "none"
    """Evaluator for whose scripts the images are written a second time, into a folder of this name in the output:
    `geneval` (metadata.jsonl and samples/ for each prompt), `dpg` (one grid of two by two images for each item_id; use
    num_samples 4) or `wise` (one image for each prompt_id). `none` writes them only once."""

    def __post_init__(self) -> None:
        for name in ("resolution", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        valid_seed("seed", self.seed)
        if self.layout != "none" and self.task not in IMAGE_OUTPUT_TASKS:
            raise ConfigError(f"layout {self.layout!r} is for images, but task {self.task} generates none")
        most = {"dpg": 4, "wise": 1}.get(self.layout)
        if most is not None and self.num_samples not in (1, most):
            allowed = "1 or 4" if most == 4 else "1"
            raise ConfigError(
                f"layout {self.layout!r} takes {allowed} images per prompt; num_samples is {self.num_samples}"
            )
        check_text_steps("text.", self.text)
        if self.max_text_tokens < 0:
            raise ConfigError(f"max_text_tokens is {self.max_text_tokens}; it must be 0 or more")

    @property
    def data(self) -> DataConfig:
        """The settings of prompts."""
        return DataConfig(prompt_template=self.prompt_template, instruction=self.instruction)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of ``unigrpo demo``."""

    model: str
    """Folder or Hub name of a checkpoint in the published MMaDA or LLaDA format."""
    compare_model: str = ""
    """Folder or Hub name of a second checkpoint. It gets the same prompts, seeds and settings, and the page shows it
    beside the first. If empty, there is none."""
    examples: str = ""
    """Prompt file whose first prompts of each task the page offers as examples."""
    image_tokenizer: str = ""
    """Folder or Hub name of the image tokenizer, such as showlab/magvitv2. If empty, it is the folder
    `image_tokenizer` of the model."""
    resolution: int = 512
    """Height and width of input and generated images, in pixels."""
    fit: Fit = "crop"
    """How an input image becomes square: `crop` keeps the middle, `stretch` resizes both sides, `pad` adds white."""
    text: TextSamplingConfig = field(default_factory=TextSamplingConfig)
    """Sampling of text. Steps, temperature and threshold can be changed on the page."""
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    """Sampling of images. Steps, temperature and guidance can be changed on the page."""
    prompt_template: PromptTemplate = "chat"
    """How a prompt becomes tokens, with the choices of `unigrpo generate`."""
    prompt_templates: dict[str, PromptTemplate] = field(default_factory=dict[str, PromptTemplate])
    """Templates that differ by task, under the keys `text`, `mmu` and `r2i`. A task without an entry uses
    prompt_template."""
    instruction: str = ""
    """Text that is put before every question."""
    instructions: dict[str, str] = field(default_factory=dict[str, str])
    """Instructions that differ by task, under the keys `text`, `mmu`, `t2i` and `r2i`."""
    host: str = "127.0.0.1"
    """Address to listen on. With an address other than loopback, everybody who can connect to this machine can use the
    model."""
    port: int = 7860
    """Port to listen on."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names under which the page may be opened, for example that of a proxy. IP addresses, localhost and the name
    of this machine are always allowed."""
    device: str = "auto"
    """Device of the model: `auto` uses the GPU if there is one; other values are cpu, cuda, cuda:1 ..."""
