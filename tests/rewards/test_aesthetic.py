"""Compares LAION's aesthetic predictor with its formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rewards.aesthetic import Aesthetic
from rewards.base import RewardInput
from rewards.imaging.clip import ClipEncoder
from rewards.imaging.score_head import ScoreHead
from rewards.loading import load_reward


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """Returns a random head for embeddings of 12 components, in the format of the published file."""
    torch.manual_seed(1)
    torch.save(ScoreHead(12).state_dict(), tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    return tmp_path


def collapsed(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the layers of the head as one linear layer, because there is no other operation between them in
    evaluation."""
    matrix, offset = torch.eye(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    for i in (0, 2, 4, 6, 7):
        weight = weights[f"layers.{i}.weight"].double()
        matrix, offset = weight @ matrix, weight @ offset + weights[f"layers.{i}.bias"]
    return matrix, offset


def test_the_reward_is_that_of_the_head_for_the_normalized_embedding(
    clip_folder: Path, head: Path, sample: Callable[..., RewardInput]
) -> None:
    batch = [sample(0), sample(1, "prompts do not matter"), sample(0, "")]
    values = load_reward("aesthetic", {"model": str(clip_folder), "head": str(head), "batch_size": 2})(batch)
    vectors = ClipEncoder(str(clip_folder)).encode_images([item.image for item in batch if item.image]).double()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    matrix, offset = collapsed(torch.load(next(head.glob("*.pth")), weights_only=True))
    expected = (vectors @ matrix.T + offset).squeeze(1).tolist()
    assert values == pytest.approx(expected, abs=1e-6)
    assert values[0] == values[2] and values[0] != values[1]


def test_bad_input_is_refused(clip_folder: Path, head: Path, sample: Callable[..., RewardInput]) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        Aesthetic(str(clip_folder), head=str(head / "nowhere.pth")).load()
    file = next(head.glob("*.pth"))
    with pytest.raises(ValueError, match=r"sample 0 of the batch .*has no generated image"):
        Aesthetic(str(clip_folder), head=str(file))([replace(sample(), image=None)])
    torch.save(ScoreHead(16).state_dict(), file)
    with pytest.raises(ValueError, match="weights of another architecture"):
        Aesthetic(str(clip_folder), head=str(file)).load()
    weights = ScoreHead(12).state_dict()
    weights["layers.0.weight"][0, 0] = float("nan")
    torch.save(weights, file)
    with pytest.raises(ValueError, match="are not finite"):
        Aesthetic(str(clip_folder), head=str(file)).load()
