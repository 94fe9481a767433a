"""Panics of the tokenizers library as errors that name the tokenizer's file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from unigrpo import CheckpointError

PANIC = "PanicException"
"""Class of the library's panics. It cannot be imported, and ``except Exception`` does not catch it."""


@contextmanager
def panics_named(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Turns a panic of the library, such as a regular expression that exceeds its limit of retries, into an error.

    Raises:
        CheckpointError: The library panicked in the block.
    """
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{Path(tokenizer.name_or_path) / 'tokenizer.json'}: the tokenizer failed on a text ({reason}); a regular "
            "expression there may need too many attempts. Use the tokenizer that came with the checkpoint"
        ) from error


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic of the library."""
    return type(error).__name__ == PANIC
