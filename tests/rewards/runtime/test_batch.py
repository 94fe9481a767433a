"""Tests samples whose images stay in a store until they are read."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rewards.base import RewardInput
from rewards.runtime.batch import HasPixels, RewardBatch


class Stored:
    """An image of one shade of grey that counts how often it is fetched."""

    def __init__(self, shade: int) -> None:
        self.shade, self.fetched = shade, 0

    def pixels(self) -> np.ndarray:
        self.fetched += 1
        return np.full((2, 3, 3), self.shade, dtype=np.uint8)


def test_only_images_of_the_part_are_fetched_for_their_samples() -> None:
    stored = [Stored(10), None, Stored(30), Stored(40)]
    assert isinstance(stored[0], HasPixels)
    own = Image.new("RGB", (1, 1), "red")
    inputs = [RewardInput(prompt=str(i), completion="", image=own if i == 1 else None) for i in range(4)]
    batch = RewardBatch(inputs, stored)
    part = batch.select([3, 1, 0]).part(0, 2)
    assert [item.prompt for item in part] == ["3", "1"]
    assert part[0].image is not None
    assert np.asarray(part[0].image).tolist() == [[[40] * 3] * 3] * 2
    assert part[1].image is own
    assert [one.fetched for one in stored if one is not None] == [0, 0, 1]
    assert inputs[3].image is None, "the batch itself has no pixels"
