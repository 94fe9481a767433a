"""The distribution from which the sampler sampled, so that scoring uses the same one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unigrpo.config import RunConfig
from unigrpo.data.layouts import t2i_unconditional_prompt
from unigrpo.models.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """The distribution from which the sampler sampled, so that scoring uses the same one."""

    mask_id: int
    """The mask token."""
    image_slice: tuple[int, int]
    """First and one-past-last id of the image codes."""
    text_temperature: float
    image_temperature: float
    guidance_scale: float = 0.0
    """Scale with which image codes are scored; 0 scores them without guidance."""
    unconditional: Int[Tensor, " Q"] | None = None
    """Unconditional prompt of an image, where there is guidance."""

    @classmethod
    def of_run(cls, config: RunConfig, vocabulary: Vocabulary) -> ScoringSettings:
        """The settings of a run."""
        image = config.rollout.image
        return cls(
            mask_id=vocabulary.mask_id,
            image_slice=vocabulary.image_slice,
            text_temperature=config.rollout.text.temperature,
            image_temperature=image.temperature,
            guidance_scale=image.guidance_scale if config.scores_guided else 0.0,
            unconditional=t2i_unconditional_prompt(vocabulary) if config.scores_guided else None,
        )

    def of(self, is_image: Bool[Tensor, " N"]) -> dict[str, Any]:
        """Arguments of the model's forward pass for tokens of which some are image codes."""
        if not is_image.any():
            return {"temperature": self.text_temperature}
        if is_image.all():
            return {"temperature": self.image_temperature, "vocab_slice": self.image_slice}
        temperature = torch.where(is_image, self.image_temperature, self.text_temperature)
        return {"temperature": temperature, "vocab_slice": self.image_slice, "is_sliced": is_image}
