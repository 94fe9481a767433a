"""Loading of the tokenizer and the image tokenizer that belong to a checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo import CheckpointError
from unigrpo.config import BaseRunConfig
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unigrpo.models.tokenizer_panics import is_panic
from unigrpo.models.weight_files import TEXT_PATTERNS, first_line, local_folder

MAX_GROWTH = 100
"""Largest factor by which the normalizer of a tokenizer may lengthen a text. Usual normalizers only mark spaces."""
MAX_TOKEN_LENGTH = 1000
"""Largest number of characters of a special or added token; those of LLaDA have at most 30. The tokenizers library
builds an automaton of all of them, which needs seconds and a gigabyte for a million characters."""
TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files besides ``tokenizer.json`` that name special tokens."""

Config = TypeVar("Config", bound=BaseRunConfig)


def with_local_folders(config: Config) -> Config:
    """Returns a config in which the folders of policy and image tokenizer replace their names on the Hub.

    The driver downloads them once, and the workers of all nodes read the folders. The folders are in the cache of the
    Hub (``HF_HOME``), which all nodes must share.

    Raises:
        CheckpointError: There is no such folder, and no such name on the Hub.
    """
    actor = replace(config.actor, model_name_or_path=str(local_folder(config.actor.model_name_or_path)))
    tokenizer = config.image.tokenizer and str(local_folder(config.image.tokenizer))
    return replace(config, actor=actor, image=replace(config.image, tokenizer=tokenizer))


def load_tokenizer(folder: str, setting: str = "actor.model_name_or_path") -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a checkpoint. Code in the checkpoint is never run.

    Args:
        folder: Folder or Hub name.
        setting: Name of the setting with the folder, for error messages.

    Raises:
        ValueError: There is no tokenizer, or its files or config.json are broken.
    """
    if not Path(folder).exists() and folder.count("/") != 1:
        raise CheckpointError(f"{setting} {folder!r}: no such folder, and names on the Hub look like owner/name")
    found = local_folder(folder, TEXT_PATTERNS)
    _check_added_tokens(found, f"{setting} {folder!r}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(found, trust_remote_code=False)
    except BaseException as error:  # tokenizer files of any content fail in many ways
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        if (found / "config.json").is_file():
            load_config(found)  # transformers reads it first, and does not say which value is wrong
        raise CheckpointError(
            f"{setting} {folder!r}: no tokenizer could be loaded; give a folder or Hub name in the "
            f"published MMaDA or LLaDA layout, or copy or download it again ({first_line(error)})"
        ) from error

    _check_growth(tokenizer, f"{setting} {folder!r}")
    return tokenizer


def _check_added_tokens(folder: Path, name: str) -> None:
    """Rejects overlong special and added tokens, before the library spends time and memory on them."""
    for file in ("tokenizer.json", *TOKEN_FILES):
        try:
            content = json.loads((folder / file).read_text("utf-8"))
            named = content.get("added_tokens") if file == "tokenizer.json" else {**content, "chat_template": ""}
            longest = max(map(len, _texts(named)), default=0)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # transformers says what is wrong
            continue
        if longest > MAX_TOKEN_LENGTH:
            raise CheckpointError(
                f"{name}: {file} names a special token of {longest} characters, expected at most {MAX_TOKEN_LENGTH}; "
                "use the tokenizer that came with the checkpoint"
            )


def _texts(value: Any) -> Iterator[str]:
    """Returns all strings in a JSON value, including the names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from (name, *_texts(part))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _check_growth(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Rejects a normalizer that lengthens texts a lot, because it would fill the memory and cannot be interrupted."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    factor = 1 if normalizer is None else _growth(json.loads(normalizer.__getstate__()))
    if factor > MAX_GROWTH:
        raise CheckpointError(
            f"{name}: the normalizer in tokenizer.json may make a text {factor} times as long, expected at most "
            f"{MAX_GROWTH}; use the tokenizer that came with the checkpoint"
        )


def _growth(normalizer: Mapping[str, Any]) -> int:
    """Returns an upper bound of the factor by which a normalizer lengthens a text, apart from Unicode
    normalization."""
    kind = normalizer.get("type")
    if kind == "Sequence":
        return math.prod(_growth(part) for part in normalizer["normalizers"])
    if kind == "Prepend":
        return 1 + len(normalizer["prepend"])
    if kind == "Replace":
        replaced = len(normalizer["pattern"].get("String", ""))  # a regular expression may match nothing, everywhere
        return 1 + len(normalizer["content"]) // max(replaced, 1)
    return 1


def find_image_tokenizer(name: str, model: str, device: torch.device | str = "cpu") -> ImageTokenizer | None:
    """Returns the named image tokenizer, or else the one in the model's folder; None if there is none.

    Args:
        name: Folder or Hub name; empty for the image tokenizer in the model's folder.
        model: Folder or Hub name of the model.
        device: Device of the weights.

    Raises:
        ValueError: The image tokenizer cannot be loaded.
    """
    if name:
        return load_image_tokenizer(name, device)
    own = local_folder(model) / "image_tokenizer"
    return load_image_tokenizer(str(own), device) if own.is_dir() else None
