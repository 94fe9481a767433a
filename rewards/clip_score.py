"""CLIP score: how well an image fits a text."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewards.base import RewardInput
from rewards.imaging.batches import describe, require_batch_size
from rewards.imaging.clip import ClipEncoder
from rewards.imaging.clip_reward import ClipReward
from rewards.imaging.weights import model_folder
from rewards.reply import after_thoughts

RANGES = {"percent": (0.0, 100.0), "cosine": (-1.0, 1.0)}


class ClipScore(ClipReward):
    """Cosine of the embeddings of a generated image and its prompt, or of an input image and its caption.

    A sample of task ``mmu`` is a caption: its answer, after the thoughts, is compared with the prompt's image.

    Args:
        model: Folder of a ``CLIPModel`` with tokenizer and image processor, or its Hub name.
        scale: ``percent``: 100 times the cosine, and 0 for negative ones; or ``cosine``.
        device: ``auto``, ``cpu``, ``cuda`` ...
        batch_size: Largest number of images that are encoded at once.

    Source:
        CLIPScore, arXiv:2104.08718, equation 1 with w = 100 (as in torchmetrics).
    """

    name = "clip_score"
    range = RANGES["percent"]
    unit = "percent: 100 times the cosine, not below 0"
    hub_options: ClassVar = {"model": model_folder}

    def __init__(
        self,
        model: str = "openai/clip-vit-large-patch14",
        scale: str = "percent",
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        if scale not in RANGES:
            raise ValueError(f"clip_score: no scale {scale!r}; choose one of {sorted(RANGES)}")
        self._is_percent = scale == "percent"
        self.range = RANGES[scale]
        self.unit = self.unit if self._is_percent else "cosine"
        self._model, self._device, self._batch_size = model, device, require_batch_size(batch_size)

    def load_encoder(self) -> ClipEncoder:
        return ClipEncoder(self._model, device=self._device, batch_size=self._batch_size)

    def values(self, cosines: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        return 100 * cosines.clamp(min=0) if self._is_percent else cosines

    def image_and_text(self, item: RewardInput, index: int) -> tuple[Image.Image, str]:
        if item.task != "mmu":
            return super().image_and_text(item, index)
        if len(item.input_images) != 1:
            number = len(item.input_images)
            raise ValueError(f"{describe(item, index)}: a caption needs one input image, found {number}")
        return item.input_images[0].convert("RGB"), after_thoughts(item.completion)

    def check_prompt(self, prompt: RewardInput) -> None:
        if prompt.task != "mmu":
            super().check_prompt(prompt)
