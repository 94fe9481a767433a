"""Tests the reward for the size of an image as a JPEG."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from PIL import Image

from rewards.base import RewardInput
from rewards.jpeg_size import JpegSize
from rewards.loading import load_reward


def test_the_reward_is_the_size_of_the_file(sample: Callable[..., RewardInput], tmp_path) -> None:
    item = sample(size=(60, 40))
    assert item.image is not None
    item.image.save(tmp_path / "image.jpg", quality=95)
    kilobytes = (tmp_path / "image.jpg").stat().st_size / 1000
    assert load_reward("jpeg_size", {})([item]) == [-kilobytes]
    assert load_reward("jpeg_size", {"prefer": "large"})([item]) == [kilobytes]


def test_a_plain_image_is_preferred_to_noise(sample: Callable[..., RewardInput]) -> None:
    noise = sample()
    plain = replace(noise, image=Image.new("RGB", (32, 32), "blue"))
    small, large = JpegSize()([plain, noise])
    assert small is not None and large is not None and small > large
    low, high = JpegSize(prefer="large").range
    assert low <= -small <= high and JpegSize().range[0] <= small <= JpegSize().range[1]


def test_quality_is_that_of_the_file(sample: Callable[..., RewardInput]) -> None:
    item, buffer = sample(), io.BytesIO()
    assert item.image is not None
    item.image.save(buffer, "JPEG", quality=20)
    assert JpegSize(quality=20)([item]) == [-len(buffer.getvalue()) / 1000]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "has no generated image"),
        (Image.new("RGB", (0, 8)), "is empty, 0 x 8 pixels"),
        (Image.new("L", (8, 8)), "has mode 'L', expected 'RGB'"),
        (Image.new("RGBA", (8, 8)), "has mode 'RGBA', expected 'RGB'"),
        ("a path.png", "is a str, not a PIL image"),
    ],
)
def test_a_sample_without_a_usable_image_is_named(
    sample: Callable[..., RewardInput], image: Image.Image | None, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"sample 1 of the batch .*{message}"):
        JpegSize()([sample(), replace(sample(), image=image)])


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="no preference 'tiny'"):
        JpegSize(prefer="tiny")
    with pytest.raises(ValueError, match="quality is 100"):
        JpegSize(quality=100)


def test_prompts_whose_samples_are_no_images_are_refused_before_training() -> None:
    JpegSize().check_prompt(RewardInput(prompt="a dog", completion="", task="r2i"))
    with pytest.raises(ValueError, match="task 'text' generates no image"):
        JpegSize().check_prompt(RewardInput(prompt="1+1=", completion="", task="text"))
