"""Tests the data of a rollout that rewards get."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from builders import rollout_without_tokens
from PIL import Image

from unigrpo.records import Prompt, Rollout, Trajectory
from unigrpo.workers.generation import TaskSampler
from unigrpo.workers.reward import reward_inputs


def rollout(sample: int, image_file: Path) -> Rollout:
    prompt = Prompt(id="p", text="what is it?", task="mmu", images=(str(image_file),), metadata={"source": "web"})
    return rollout_without_tokens(sample, "a cat", prompt)


def test_rewards_get_the_image_upright_as_the_policy_does_and_samples_share_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the photo must be rotated by 90 degrees
    Image.new("L", (8, 4)).save(tmp_path / "cat.jpg", exif=exif)
    first, second = reward_inputs([rollout(0, tmp_path / "cat.jpg"), rollout(1, tmp_path / "cat.jpg")])
    (image,) = first.input_images
    assert image.size == (4, 8) and image.mode == "RGB"
    assert second.input_images[0] is image
    assert first.metadata == {"source": "web"}


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png: no image could be read"):
        reward_inputs([rollout(0, tmp_path / "gone.png")])


def test_rewards_get_token_ids_and_the_text_with_and_without_its_end():
    tokens = torch.tensor([7, 8, 9, 4, 5, 2, 2])
    response = torch.tensor([0, 0, 0, 1, 1, 1, 1]).bool()
    made = dataclasses.replace(
        rollout(0, Path("a.png")),
        prompt=Prompt(id="p", text="2+3=", messages=({"role": "user", "content": "2+3="},)),
        token_ids=tokens, response_mask=response, scored_mask=torch.tensor([0, 0, 0, 1, 1, 1, 0]).bool(),
        completion="5", raw_completion="5<|eot_id|>", commit_step=tokens, commit_log_probs=tokens.float(),
        image_mask=torch.zeros(7).bool(),
    )  # fmt: skip
    (seen,) = reward_inputs([made])
    assert (seen.completion, seen.raw_completion) == ("5", "5<|eot_id|>")
    assert (seen.prompt_ids, seen.completion_ids) == ((7, 8, 9), (4, 5, 2))  # the first end-of-text counts
    assert seen.messages == ({"role": "user", "content": "2+3="},)


def test_rewards_get_the_length_of_the_text_and_whether_it_was_cut_off():
    tokens = torch.tensor([7, 4, 5, 9, 30, 31])
    made = dataclasses.replace(
        rollout(0, Path("a.png")),
        prompt=Prompt(id="p", text="a cat", task="r2i"),
        token_ids=tokens, response_mask=torch.tensor([0, 1, 1, 0, 1, 1]).bool(),
        scored_mask=torch.tensor([0, 1, 1, 0, 1, 1]).bool(), commit_step=tokens, commit_log_probs=tokens.float(),
        image_mask=torch.tensor([0, 0, 0, 0, 1, 1]).bool(), is_full_length=True,
    )  # fmt: skip
    (seen,) = reward_inputs([made])
    assert (seen.num_tokens, seen.is_full_length) == (2, True)


@pytest.mark.parametrize(("response", "expected"), [([4, 5, 6], True), ([4, 2, 6], False), ([4, 5, 2], False)])
def test_a_text_is_of_full_length_if_it_has_no_end_of_text(response, expected):
    tokens = torch.tensor([2, 7, *response])  # an end-of-text in the prompt does not end the response
    written = torch.tensor([False, False, True, True, True])
    text = Trajectory(
        token_ids=tokens,
        response_mask=written,
        scored_mask=written,
        image_mask=~written & written,
        commit_step=tokens,
        commit_log_probs=tokens.float(),
        commit_entropy=tokens.float(),
    )
    sampler = SimpleNamespace(vocabulary=SimpleNamespace(end_of_text_id=2))
    assert TaskSampler.is_full_length(sampler, text) is expected  # type: ignore[arg-type]
