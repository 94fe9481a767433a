"""Inputs of ``unigrpo generate``, and checks of everything that can be wrong with them before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from unigrpo import ConfigError
from unigrpo.config import IMAGE_OUTPUT_TASKS, PromptFileConfig, check_image_steps
from unigrpo.config.generate import GenerateConfig
from unigrpo.data.files import is_table_name
from unigrpo.data.images import read_image
from unigrpo.data.prompting import encode_prompt
from unigrpo.data.prompts import load_prompts
from unigrpo.library.policy import torch_device
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.image_tokenizer import ImageTokenizer
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt


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
    torch_device(config.device)
    prompts = _read_prompts(config)
    model_config = load_config(config.model)
    tokenizer = load_tokenizer(config.model, "model")
    vocabulary = Vocabulary.from_pretrained_parts(model_config, tokenizer)
    room = config.max_text_tokens or model_config.max_text_tokens or 512
    _check_lengths(prompts, tokenizer, vocabulary, config, room)
    for path in sorted({path for prompt in prompts for path in prompt.images}):
        read_image(path)
    image_tokenizer, num_codes = None, 0
    if config.task != "text":
        image_tokenizer = _load_image_tokenizer(config, vocabulary)
        num_codes = (config.resolution // image_tokenizer.downscale) ** 2
    if config.task in IMAGE_OUTPUT_TASKS:
        check_image_steps("image.", config.image, num_codes)
    return Inputs(
        prompts=prompts,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        image_tokenizer=image_tokenizer,
        num_image_tokens=num_codes,
        max_text_tokens=room,
    )


def _read_prompts(config: GenerateConfig) -> list[Prompt]:
    file = Path(config.prompts)
    is_path = len(config.prompts) < 4096
    is_file, is_folder = is_path and file.is_file(), is_path and file.is_dir()
    if is_file:
        files = (PromptFileConfig(path=config.prompts),)
        if config.task == "mmu" and config.images:  # the rows need no images of their own
            prompts = load_prompts(files, tasks=("text", "mmu"))
        else:
            prompts = load_prompts(files, default_task=config.task, tasks=(config.task,))
    elif is_folder:
        prompts = _prompt_folder(file)
    elif is_table_name(config.prompts):
        raise ConfigError(f"prompts {config.prompts!r}: no such file (looked in {Path.cwd()})")
    else:
        prompts = [Prompt(id="prompts", text=config.prompts)] if config.prompts.strip() else []
    if not prompts:
        raise ConfigError(f"prompts {config.prompts!r} holds no prompt; give a text or a file with one per line")
    return [replace(prompt, task=config.task) for prompt in _with_images(prompts, config)]


def _prompt_folder(folder: Path) -> list[Prompt]:
    """Returns the prompts of a folder of text files with one prompt each, such as that of DPG-Bench."""
    return [
        Prompt(id=file.name, text=" ".join(file.read_text(encoding="utf-8").split()), metadata={"item_id": file.stem})
        for file in sorted(folder.glob("*.txt"))
    ]


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
    if vocabulary.codebook_size == 0:
        raise ConfigError(
            f"{config.model}: a text-only checkpoint (codebook_size is 0); task {config.task} needs images"
        )
    loaded = find_image_tokenizer(config.image_tokenizer, config.model, torch_device(config.device))
    if loaded is None:
        raise ConfigError(
            f"{config.model}: no folder image_tokenizer is in it; name one with --image_tokenizer, for example "
            "showlab/magvitv2"
        )
    name = config.image_tokenizer or f"{config.model}/image_tokenizer"
    if loaded.codebook_size != vocabulary.codebook_size:
        raise ConfigError(
            f"{name}: the image tokenizer has {loaded.codebook_size} codes, the model {vocabulary.codebook_size}; use "
            "the one that the model was trained with"
        )
    if config.resolution % loaded.downscale:
        raise ConfigError(f"resolution is {config.resolution}; it must be a multiple of {loaded.downscale}")
    return loaded
