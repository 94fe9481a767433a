"""Generated images in a store: only who looks at an image gets its pixels.

This module imports no torch, because the processes of rewards read images without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class ImageStore(Protocol):
    """The place where the images of several samples are kept."""

    def get(self) -> Sequence[np.ndarray]:
        """Returns the images, uint8 (H, W, 3) each."""
        ...


@dataclass(frozen=True)
class ArrayStore:
    """Images in this process."""

    images: Sequence[np.ndarray]

    def get(self) -> Sequence[np.ndarray]:
        return self.images


@dataclass(frozen=True)
class StoredImage:
    """One image in a store."""

    store: ImageStore
    place: int

    def pixels(self) -> np.ndarray:
        """Returns the image, uint8 (H, W, 3)."""
        return self.store.get()[self.place]
