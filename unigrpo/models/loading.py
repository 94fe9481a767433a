"""Loading of the tokenizer and the image tokenizer that belong to a checkpoint."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo.models.image_tokenizer import ImageTokenizer, load_image_tokenizer


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a checkpoint.

    Raises:
        ValueError: There is no tokenizer.
    """
    if not Path(folder).exists() and folder.count("/") != 1:
        raise ValueError(
            f"actor.model_name_or_path {folder!r}: no such folder, and names on the Hub look like owner/name"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"actor.model_name_or_path {folder!r}: no tokenizer could be loaded; give a folder or Hub name in the "
            f"published MMaDA or LLaDA layout ({type(error).__name__}: {str(error).splitlines()[0]})"
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
