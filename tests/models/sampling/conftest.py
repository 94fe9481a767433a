"""Shortens calls of the samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from unigrpo.config import TextSamplingConfig
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Trajectory


@pytest.fixture(scope="session")
def sample() -> Callable[..., list[Trajectory]]:
    """Returns a function that samples text with one generator per prompt, with the mask and end-of-text of golden
    cases."""

    def run(
        model: Callable[..., Any],
        prompts: Sequence[Tensor],
        *,
        mask_id: int = 37,
        end_id: int = 24,
        seeds: Sequence[int] | None = None,
        **settings: Any,
    ) -> list[Trajectory]:
        unread = {"begin_of_text_id": 0, "image_pad_id": 0, "soi_id": 0, "eoi_id": 0, "t2i_id": 0, "mmu_id": 0}
        vocabulary = Vocabulary(
            mask_id=mask_id,
            end_of_text_id=end_id,
            r2i_id=0,
            end_header_id=None,
            image_offset=0,
            codebook_size=0,
            **unread,
        )
        seeds = range(len(prompts)) if seeds is None else seeds
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return sample_text(model, prompts, TextSamplingConfig(**settings), vocabulary, generators=generators)

    return run
