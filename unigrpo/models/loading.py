"""Loading of the tokenizer and the image tokenizer that belong to a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo import CheckpointError
from unigrpo.config import BaseRunConfig
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unigrpo.models.weight_files import first_line, local_folder

Config = TypeVar("Config", bound=BaseRunConfig)


def with_local_folders(config: Config) -> Config:
    """Returns a config that names the folders of policy and image tokenizer in place of their names on the Hub.

    The driver asks the Hub once, and the workers of all nodes read the folders. These lie in the cache of the Hub
    (``HF_HOME``), which all nodes must see.

    Raises:
        CheckpointError: There is no such folder, and no such name on the Hub.
    """
    actor = replace(config.actor, model_name_or_path=str(local_folder(config.actor.model_name_or_path)))
    tokenizer = config.image.tokenizer and str(local_folder(config.image.tokenizer))
    return replace(config, actor=actor, image=replace(config.image, tokenizer=tokenizer))


def load_tokenizer(folder: str, setting: str = "actor.model_name_or_path") -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a checkpoint. No code of the checkpoint is run.

    Args:
        folder: Folder or Hub name.
        setting: What names the folder, for errors.

    Raises:
        ValueError: There is no tokenizer, or its files or config.json are broken.
    """
    if not Path(folder).exists() and folder.count("/") != 1:
        raise CheckpointError(f"{setting} {folder!r}: no such folder, and names on the Hub look like owner/name")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizer files of any content fail in many ways
        if (Path(folder) / "config.json").is_file():
            load_config(folder)  # transformers reads it first, and does not say which value is wrong
        raise CheckpointError(
            f"{setting} {folder!r}: no tokenizer could be loaded; give a folder or Hub name in the "
            f"published MMaDA or LLaDA layout, or copy or download it again ({first_line(error)})"
        ) from error


def find_image_tokenizer(name: str, model: str) -> ImageTokenizer | None:
    """Returns the image tokenizer that is named, or else the one in the model's folder; None if there is none.

    Raises:
        ValueError: The image tokenizer cannot be loaded.
    """
    if name:
        return load_image_tokenizer(name)
    own = local_folder(model) / "image_tokenizer"
    return load_image_tokenizer(str(own)) if own.is_dir() else None
