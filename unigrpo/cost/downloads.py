"""What a run downloads from the Hub before its first step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from unigrpo.config import BaseRunConfig, RunConfig, prompt_files

SIZES_GB = {
    "Gen-Verse/MMaDA-8B-Base": 16.2,
    "Gen-Verse/MMaDA-8B-MixCoT": 16.2,
    "GSAI-ML/LLaDA-8B-Base": 16.0,
    "GSAI-ML/LLaDA-8B-Instruct": 16.0,
    "GSAI-ML/LLaDA-1.5": 16.0,
    "showlab/magvitv2": 0.4,
    "openai/clip-vit-large-patch14": 1.7,
    "zai-org/ImageReward": 1.8,
    "openai/gsm8k": 0.01,
}
"""Sizes of the files that are read from published repositories."""
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Download:
    """One repository on the Hub."""

    name: str
    gigabytes: float | None
    """Size of the files; None if it is unknown."""
    is_cached: bool
    """Whether the cache of this machine contains the repository."""


def downloads(config: BaseRunConfig) -> list[Download]:
    """Returns the repositories on the Hub that a run reads, without duplicates."""
    try:
        cached = {repo.repo_id for repo in scan_cache_dir().repos}
    except CacheNotFound:
        cached = set()
    names = dict.fromkeys(name for name in _names(config) if HUB_NAME.fullmatch(name) and not Path(name).exists())
    return [Download(name=name, gigabytes=SIZES_GB.get(name), is_cached=name in cached) for name in names]


def _names(config: BaseRunConfig) -> Iterator[str]:
    yield config.actor.model_name_or_path
    yield config.image.tokenizer
    if isinstance(config, RunConfig):
        for term in config.reward.terms:
            yield from (value for value in term.options.values() if isinstance(value, str))
        for files in (config.data.prompt_dataset, config.eval.dataset):
            for file in prompt_files(files) if files else ():
                if not Path(file.path).suffix:
                    yield _without_configuration(file.path)


def _without_configuration(path: str) -> str:
    return path.partition(":")[0]
