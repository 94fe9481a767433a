"""The tokenizer and the token ids of the tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from unigrpo.models.mmada import MMadaConfig
from unigrpo.models.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> Any:
    """The tokenizer; tests that change it make one of their own."""
    return AutoTokenizer.from_pretrained(tiny_model_folder)


@pytest.fixture(scope="module")
def vocabulary(tiny_model_folder: Path, tokenizer: Any) -> Vocabulary:
    """The token ids, without image codes."""
    return Vocabulary.from_pretrained_parts(MMadaConfig.from_pretrained(tiny_model_folder), tokenizer)
