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
    """Returns the tokenizer. Tests that change it load another one."""
    return AutoTokenizer.from_pretrained(tiny_model_folder)


@pytest.fixture(scope="module")
def vocabulary(tiny_model_folder: Path, tokenizer: Any) -> Vocabulary:
    """Returns the token ids, without image codes."""
    return Vocabulary.from_pretrained_parts(MMadaConfig.from_pretrained(tiny_model_folder), tokenizer)
