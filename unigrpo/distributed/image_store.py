"""Generated images in Ray's store, from which only processes that read them get a copy.

This module imports no torch; see :mod:`unigrpo.image_store`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray


@dataclass(frozen=True)
class RayStore:
    """The images of one call of a worker; an :class:`~unigrpo.image_store.ImageStore`."""

    images: Any
    """Reference to the list of images."""

    def get(self) -> Sequence[np.ndarray]:
        return ray.get(self.images)
