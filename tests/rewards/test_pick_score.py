"""Compares PickScore with the forward pass of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from rewards.base import RewardInput
from rewards.loading import load_reward
from rewards.pick_score import PickScore

PROMPTS = ["a dog", "two cats", "rain"]


def test_the_reward_is_the_logit_of_the_pair(
    clip_folder: Path, tmp_path: Path, sample: Callable[..., RewardInput]
) -> None:
    batch = [sample(i, prompt) for i, prompt in enumerate(PROMPTS)]
    model = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        model.logit_scale.fill_(4.2)
    # Like the published folder, it has only the model, without tokenizer and image processor.
    model.save_pretrained(tmp_path)
    tokens = AutoTokenizer.from_pretrained(clip_folder)(PROMPTS, padding=True, return_tensors="pt")
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    pixels = processor([item.image for item in batch if item.image], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(**tokens, pixel_values=pixels).logits_per_image.diag()
    options = {"model": str(tmp_path), "processor": str(clip_folder)}
    values = torch.tensor(load_reward("pick_score", options)(batch))
    torch.testing.assert_close(values, expected, atol=2e-4, rtol=0)  # 67 times the rounding of a cosine
    cosines = load_reward("pick_score", {**options, "scale": "cosine"})(batch)
    torch.testing.assert_close(torch.tensor(cosines), expected / model.logit_scale.exp().item(), atol=2e-6, rtol=0)


def test_bad_input_is_refused(clip_folder: Path, tmp_path: Path, sample: Callable[..., RewardInput]) -> None:
    with pytest.raises(ValueError, match="no scale 'percent'"):
        PickScore(scale="percent")
    with pytest.raises(ValueError, match="no such file or folder"):
        PickScore(str(clip_folder), processor=str(tmp_path / "nowhere")).load()
    reward = PickScore(str(clip_folder), processor=None)
    with pytest.raises(ValueError, match=r"sample 0 of the batch .*has no prompt"):
        reward([replace(sample(), prompt="\n")])
    assert reward([]) == []
    with pytest.raises(ValueError, match="generates no image"):
        reward.check_prompt(RewardInput(prompt="a", completion="", task="mmu"))
