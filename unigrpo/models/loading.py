"""Loading of the tokenizer and the image tokenizer that belong to a checkpoint."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo import CheckpointError
from unigrpo.models.image_tokenizer import ImageTokenizer, load_image_tokenizer
from unigrpo.models.weight_files import first_line


def load_tokenizer(folder: str, setting: str = "actor.model_name_or_path") -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a checkpoint. No code of the checkpoint is run.

    Args:
        folder: Folder or Hub name.
        setting: What names the folder, for errors.

    Raises:
        ValueError: There is no tokenizer, or its files are broken.
    """
    if not Path(folder).exists() and folder.count("/") != 1:
        raise CheckpointError(f"{setting} {folder!r}: no such folder, and names on the Hub look like owner/name")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizer files of any content fail in many ways
        raise CheckpointError(
            f"{setting} {folder!r}: no tokenizer could be loaded; give a folder or Hub name in the "
            f"published MMaDA or LLaDA layout, or copy or download it again ({first_line(error)})"
        ) from error


def find_image_tokenizer(name: str, model: str) -> ImageTokenizer | None:
    """Returns the image tokenizer that is named, or else the one in the model's folder; None if there is none.

    Raises:
        ValueError: The image tokenizer cannot be loaded.
    """
    own = Path(model) / "image_tokenizer"
    if not name and not own.is_dir():
        return None
    return load_image_tokenizer(name or str(own))
