"""Checks of everything that can be wrong with a stage before it starts: model, sources, image tokenizer, prompts."""

from __future__ import annotations

from dataclasses import dataclass

from unigrpo.checks.unigrpo import check_image_tokenizer, check_image_tokens
from unigrpo.config.denoising import MODALITIES, StageConfig
from unigrpo.data.corpora.dataloader import CorpusLoader
from unigrpo.data.corpora.rows import RowEncoder
from unigrpo.data.images import read_image
from unigrpo.data.prompts import load_prompts
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.loading import load_tokenizer
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt

IMAGE_TASKS = ("t2i", "mmu", "r2i")
FRAME_TOKENS = 3
"""Number of tokens of a row with an image besides text and codes: the task token, start-of-image and end-of-image."""


@dataclass(frozen=True, kw_only=True)
class StageInputs:
    """The checked inputs of a stage."""

    validation_prompts: list[Prompt]
    sizes: dict[str, dict[str, int]]
    """Number of samples of each source, by modality."""
    rows: dict[str, int]
    """Number of tokens of a row of each modality."""


def check_stage(config: StageConfig) -> StageInputs:
    """Opens everything that a stage reads.

    Raises:
        ValueError: Something is wrong; the message names the file and line, or the setting.
    """
    tokenizer = load_tokenizer(config.actor.model_name_or_path)
    vocabulary = Vocabulary.from_pretrained_parts(load_config(config.actor.model_name_or_path), tokenizer)
    encoder = RowEncoder(tokenizer, vocabulary, config.layout)
    prompts = load_prompts(config.validation.prompts) if config.validation.prompts else []
    for path in sorted({path for prompt in prompts for path in prompt.images}):
        read_image(path)
    has_images = any(m in IMAGE_TASKS for m in config.modalities) or any(p.task in IMAGE_TASKS for p in prompts)
    num_codes = check_image_tokenizer(config.image, config.actor.model_name_or_path, vocabulary) if has_images else 0
    check_image_tokens("validation", config.validation.image, config.image.resolution, num_codes, prompts)
    sources = {name: modality.sources for name, modality in config.modalities.items()}
    held_out = {name: getattr(config.validation, name).sources for name in MODALITIES}
    image = config.image
    readers = [
        CorpusLoader(found, config.seed, encoder, image.resolution, image.fit)
        for found in (sources, {k: v for k, v in held_out.items() if v})
    ]
    for reader in readers:
        reader.check_sources()
    return StageInputs(
        validation_prompts=prompts,
        sizes={name: readers[0].streams[name].sizes for name in sources},
        rows=row_lengths(config, num_codes),
    )


def row_lengths(config: StageConfig, num_codes: int) -> dict[str, int]:
    """Returns the number of tokens of a row of each modality of a stage, whose images have this number of codes."""
    image_row = config.layout.max_text_tokens + num_codes + FRAME_TOKENS
    return {m: image_row if m in IMAGE_TASKS else config.layout.num_text_tokens for m in config.modalities}
