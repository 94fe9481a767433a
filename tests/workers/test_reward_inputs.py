"""What rewards get to see of a rollout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from unigrpo.records import Prompt, Rollout, SampleRequest
from unigrpo.workers.reward import reward_inputs


def rollout(sample: int, picture: Path) -> Rollout:
    empty = torch.zeros(0)
    prompt = Prompt(id="p", text="what is it?", task="mmu", images=(str(picture),), metadata={"source": "web"})
    return Rollout(
        request=SampleRequest(prompt=prompt, group_id=0, sample_id=sample, step=0),
        policy_version=0, token_ids=empty.long(), response_mask=empty.bool(), scored_mask=empty.bool(),
        completion="a cat", commit_step=empty.long(), commit_log_probs=empty, image_mask=empty.bool(),
    )  # fmt: skip


def test_rewards_see_the_picture_upright_as_the_policy_does_and_samples_share_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees
    Image.new("L", (8, 4)).save(tmp_path / "cat.jpg", exif=exif)
    first, second = reward_inputs([rollout(0, tmp_path / "cat.jpg"), rollout(1, tmp_path / "cat.jpg")])
    (picture,) = first.input_images
    assert picture.size == (4, 8) and picture.mode == "RGB"
    assert second.input_images[0] is picture
    assert first.metadata == {"source": "web"}


def test_a_picture_that_is_gone_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png: no image could be read"):
        reward_inputs([rollout(0, tmp_path / "gone.png")])
