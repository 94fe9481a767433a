"""Aesthetic quality of an image, by LAION's aesthetic predictor on CLIP embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch

from rewards.base import Reward, RewardInput
from rewards.imaging.batches import check_image_prompt, generated_image, require_batch_size
from rewards.imaging.clip import ClipEncoder
from rewards.imaging.score_head import ScoreHead
from rewards.imaging.weights import find_file, load_exactly, model_folder, read_weights

HEAD_FILES = ("aesthetic-model.pth", "sac+logos+ava1-l14-linearMSE.pth", "model.safetensors")


def head_file(head: str) -> Path:
    """Returns the file of a head's weights; a file of the Hub is downloaded."""
    return find_file(head, HEAD_FILES)


class Aesthetic(Reward):
    """Score of a head on the normalized CLIP embedding of a generated image. The prompt is not used.

    Args:
        model: Folder or Hub name of the ``CLIPModel`` on which the head was trained, with its processor.
        head: File of the head's weights, or a folder or Hub name with one of :data:`HEAD_FILES`.
        device: Device of CLIP: ``auto``, ``cpu``, ``cuda`` ...
        batch_size: Largest number of images that are encoded at once.

    Source:
        LAION-Aesthetics V2, arXiv:2210.08402, section 3.2; weights as the predictor's authors published them.
    """

    name = "aesthetic"
    range = (float("-inf"), float("inf"))
    unit = "rating from 1 to 10"
    is_costly = True
    hub_options: ClassVar = {"model": model_folder, "head": head_file}

    def __init__(
        self,
        model: str = "openai/clip-vit-large-patch14",
        head: str = "trl-lib/ddpo-aesthetic-predictor",
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        self._model, self._head_source = model, head
        self._device, self._batch_size = device, require_batch_size(batch_size)

    def load(self) -> None:
        _ = self._head

    @cached_property
    def _encoder(self) -> ClipEncoder:
        return ClipEncoder(self._model, device=self._device, batch_size=self._batch_size)

    @cached_property
    def _head(self) -> ScoreHead:
        path = head_file(self._head_source)
        head = ScoreHead(self._encoder.width)
        load_exactly(head, read_weights(path), str(path))
        return head.eval().requires_grad_(False)

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        if not inputs:
            return []
        images = [generated_image(item, i) for i, item in enumerate(inputs)]
        with torch.inference_mode():
            return self._head(self._encoder.encode_images(images)).tolist()

    def check_prompt(self, prompt: RewardInput) -> None:
        check_image_prompt(prompt)
