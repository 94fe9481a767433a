"""Batches of samples for rewards, whose generated images stay in a store until the reward is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from rewards.base import RewardInput


@runtime_checkable
class HasPixels(Protocol):
    """An image that is fetched when it is looked at."""

    def pixels(self) -> np.ndarray:
        """Returns the image, uint8 (H, W, 3)."""
        ...


@dataclass(frozen=True)
class RewardBatch:
    """Samples as rewards see them, whose generated images are still in their store."""

    inputs: Sequence[RewardInput]
    images: Sequence[HasPixels | None]
    """Generated image of each sample; None where the input has its image already, or none."""

    def select(self, rows: Sequence[int]) -> RewardBatch:
        """Returns some of the samples."""
        return RewardBatch([self.inputs[i] for i in rows], [self.images[i] for i in rows])

    def part(self, start: int, stop: int) -> list[RewardInput]:
        """Returns consecutive samples with their images."""
        return [
            item if image is None else replace(item, image=Image.fromarray(image.pixels()))
            for item, image in zip(self.inputs[start:stop], self.images[start:stop], strict=True)
        ]
