"""Stores of generated images, from which the pixels of an image are sent only to the process that reads it.

This module does not import torch, because reward processes read images without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class ImageStore(Protocol):
    """A store of the images of several samples."""

    def get(self) -> Sequence[np.ndarray]:
        """Returns the images, uint8 (H, W, 3) each."""
        ...


@dataclass(frozen=True)
class ArrayStore:
    """A store in the memory of this process."""

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
