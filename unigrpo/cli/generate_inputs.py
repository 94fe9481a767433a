"""Inputs of ``unigrpo generate``, and checks of everything that can be wrong with them before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from unigrpo import ConfigError
from unigrpo.config import (
    DRAWING_TASKS,
    DataConfig,
    Fit,
    ImageSamplingConfig,
    PromptFileConfig,
    PromptTemplate,
    TextSamplingConfig,
    check_image_steps,
    check_text_steps,
)
from unigrpo.config.checks import valid_seed
from unigrpo.data.files import is_table_name
from unigrpo.data.images import read_image
from unigrpo.data.prompting import encode_prompt
from unigrpo.data.prompts import load_prompts
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unigrpo.models.loading import load_tokenizer
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt

SAMPLES = "samples.jsonl"


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Settings of ``unigrpo generate``."""

    task: Literal["text", "mmu", "t2i", "r2i"]
    """Task: `text` (text reasoning), `mmu` (image understanding), `t2i` (text to image) or `r2i` (thinking, then text
    to image)."""
    model: str
    """Folder or Hub name of a checkpoint in the published MMaDA or LLaDA format."""
    prompts: str
    """A text; a .txt file with one prompt per line; or a .jsonl file with a column `prompt`, and for mmu `image`. If
    the file has a column `task`, the lines of this task are used."""
    output: str
    """Folder to write; it must not hold samples yet."""
    images: tuple[str, ...] = ()
    """Image files for mmu: one for each prompt, or one for all prompts, or several for one prompt."""
    image_tokenizer: str = ""
    """Folder or Hub name of the image tokenizer, such as showlab/magvitv2. If empty, it is the folder
    `image_tokenizer` of the model."""
    resolution: int = 512
    """Height and width of input and generated images, in pixels; a multiple of the image tokenizer's square, which is
    16."""
    fit: Fit = "crop"
    """How an input image becomes square: `crop` keeps the middle, `stretch` resizes both sides, `pad` adds white."""
    text: TextSamplingConfig = field(default_factory=TextSamplingConfig)
    """Sampling of text."""
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    """Sampling of images."""
    num_samples: int = 1
    """Number of samples per prompt."""
    batch_size: int = 8
    """Number of samples that are generated together. It changes speed and memory, and not the samples."""
    seed: int = 0
    """Seed of the first sample. Sample number i, from 0, uses seed + i, which samples.jsonl records."""
    max_text_tokens: int = 0
    """Largest number of text tokens of a prompt, in r2i together with its thoughts; a longer prompt is an error. 0
    takes the number from the model's config.json, or 512."""
    prompt_template: PromptTemplate = "chat"
    """How a prompt becomes tokens: `chat` applies the tokenizer's chat template, `chat_one_newline` that of MMaDA,
    `chat_two_newlines` that of LLaDA, and `plain` none. Captions of t2i never have a template."""
    instruction: str = ""
    """Text that is put before every prompt except captions of t2i, for example the request to think first."""
    device: str = "auto"
    """Device of the model: `auto` uses the GPU if there is one; other values are cpu, cuda, cuda:1 ..."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the weights; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    gif: bool = False
    """Also write animations of the denoising."""

    def __post_init__(self) -> None:
        for name in ("resolution", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        valid_seed("seed", self.seed)
        check_text_steps("text.", self.text)
        if self.max_text_tokens < 0:
            raise ConfigError(f"max_text_tokens is {self.max_text_tokens}; it must be 0 or more")

    @property
    def data(self) -> DataConfig:
        """The settings of prompts."""
        return DataConfig(prompt_template=self.prompt_template, instruction=self.instruction)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The checked inputs of the command."""

    prompts: list[Prompt]
    """Prompts of the command's task; those of mmu have one image each."""
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    image_tokenizer: ImageTokenizer | None
    """The image tokenizer; None for text."""
    num_image_tokens: int
    """Number of codes of one image of the requested resolution; 0 for text."""
    max_text_tokens: int
    """Largest number of text tokens of a prompt."""


def check_inputs(config: GenerateConfig) -> Inputs:
    """Reads everything that the command needs except the model.

    Raises:
        ValueError: Something is wrong; the message names the file or the setting.
    """
    if (Path(config.output) / SAMPLES).exists():
        raise ConfigError(f"output {config.output!r} holds {SAMPLES} already; name another folder")
    torch_device(config.device)
    prompts = _read_prompts(config)
    model_config = load_config(config.model)
    tokenizer = load_tokenizer(config.model, "model")
    vocabulary = Vocabulary.from_pretrained_parts(model_config, tokenizer)
    room = config.max_text_tokens or model_config.max_text_tokens or 512
    _check_lengths(prompts, tokenizer, vocabulary, config, room)
    for path in sorted({path for prompt in prompts for path in prompt.images}):
        read_image(path)
    if config.task == "text":
        return Inputs(
            prompts=prompts, tokenizer=tokenizer, vocabulary=vocabulary, image_tokenizer=None, num_image_tokens=0,
            max_text_tokens=room,
        )  # fmt: skip
    if vocabulary.codebook_size == 0:
        raise ConfigError(
            f"{config.model}: a text-only checkpoint (codebook_size is 0); task {config.task} needs images"
        )
    image_tokenizer = _load_image_tokenizer(config, vocabulary)
    num_codes = (config.resolution // image_tokenizer.downscale) ** 2
    if config.task in DRAWING_TASKS:
        check_image_steps("image.", config.image, num_codes)
    return Inputs(
        prompts=prompts,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        image_tokenizer=image_tokenizer,
        num_image_tokens=num_codes,
        max_text_tokens=room,
    )


def torch_device(name: str) -> torch.device:
    """Returns the device that a name means.

    Raises:
        ValueError: There is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); use auto") from error
    return device


def _read_prompts(config: GenerateConfig) -> list[Prompt]:
    file = Path(config.prompts)
    is_file = len(config.prompts) < 4096 and file.is_file()
    if is_file:
        files = (PromptFileConfig(path=config.prompts),)
        if config.task == "mmu" and config.images:  # the rows need no images of their own
            prompts = load_prompts(files, tasks=("text", "mmu"))
        else:
            prompts = load_prompts(files, default_task=config.task, tasks=(config.task,))
    elif is_table_name(config.prompts):
        raise ConfigError(f"prompts {config.prompts!r}: no such file (looked in {Path.cwd()})")
    else:
        prompts = [Prompt(id="prompts", text=config.prompts)] if config.prompts.strip() else []
    if not prompts:
        raise ConfigError(f"prompts {config.prompts!r} holds no prompt; give a text or a file with one per line")
    return [replace(prompt, task=config.task) for prompt in _with_images(prompts, config)]


def _with_images(prompts: list[Prompt], config: GenerateConfig) -> list[Prompt]:
    """Returns the prompts with the images of the command line, or with their own."""
    if config.task != "mmu":
        if config.images:
            raise ConfigError(f"images are given, but task {config.task} reads none; only mmu does")
        return [replace(prompt, images=()) for prompt in prompts]
    given = config.images
    if len(given) > 1 and len(prompts) == 1:
        prompts = prompts * len(given)
    elif len(given) == 1:
        given = given * len(prompts)
    if given and len(given) != len(prompts):
        raise ConfigError(f"{len(given)} images for {len(prompts)} prompts; give one to each, or one for all")
    if given:
        prompts = [replace(prompt, images=(image,)) for prompt, image in zip(prompts, given, strict=True)]
    for prompt in prompts:
        if len(prompt.images) != 1:
            raise ConfigError(f"{prompt.id}: task mmu needs one image, found {len(prompt.images)}; use --images")
    return prompts


def _check_lengths(
    prompts: list[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    config: GenerateConfig,
    room: int,
) -> None:
    """Encodes every prompt, which also finds prompts that cannot be encoded."""
    no_image = torch.zeros(0, dtype=torch.long) if config.task == "mmu" else None
    not_text = {"text": 0, "mmu": 3, "t2i": 2, "r2i": 1}[config.task]  # task token and those around the image
    # In r2i the thoughts and their end-of-text come on top.
    thoughts = config.text.max_new_tokens + 1 if config.task == "r2i" else 0
    for prompt in prompts:
        ids = encode_prompt(prompt, tokenizer, vocabulary, config.data, no_image)
        length = len(ids) - not_text + thoughts
        if length > room:
            what = f"prompt with {thoughts} for its thoughts" if thoughts else "prompt"
            raise ConfigError(
                f"{prompt.id}: the {what} has {length} text tokens, more than max_text_tokens {room}; shorten it, or "
                "raise the limit"
            )


def _load_image_tokenizer(config: GenerateConfig, vocabulary: Vocabulary) -> ImageTokenizer:
    name = config.image_tokenizer or str(Path(config.model) / "image_tokenizer")
    if not config.image_tokenizer and not Path(name).is_dir():
        raise ConfigError(
            f"{config.model}: no folder image_tokenizer is in it; name one with --image_tokenizer, for example "
            "showlab/magvitv2"
        )
    loaded = load_image_tokenizer(name, device=torch_device(config.device))
    if loaded.codebook_size != vocabulary.codebook_size:
        raise ConfigError(
            f"{name}: the image tokenizer has {loaded.codebook_size} codes, the model {vocabulary.codebook_size}; use "
            "the one that the model was trained with"
        )
    if config.resolution % loaded.downscale:
        raise ConfigError(f"resolution is {config.resolution}; it must be a multiple of {loaded.downscale}")
    return loaded
