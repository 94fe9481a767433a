"""Human preference for an image given its prompt, by PickScore: a CLIP that was trained on people's choices."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from rewards.base import Reward, RewardInput
from rewards.imaging.batches import check_image_prompt, image_and_prompt, require_batch_size
from rewards.imaging.clip import ClipEncoder

RANGES = {"logit": (-100.0, 100.0), "cosine": (-1.0, 1.0)}


class PickScore(Reward):
    """Scaled cosine of the embeddings of a generated image and its prompt.

    Args:
        model: Folder or Hub name of the ``CLIPModel``.
        processor: Folder or Hub name of the tokenizer and the image processor, which the published model does not
            hold; None: that of the model.
        scale: ``logit``: the cosine times the model's own scale, as published (about 20); or ``cosine``.
        device: ``auto``, ``cpu``, ``cuda`` ...
        batch_size: Largest number of images that are encoded at once.

    Source:
        Pick-a-Pic, arXiv:2305.01569, equation 1.
    """

    name = "pick_score"
    range = RANGES["logit"]
    unit = "logit: cosine times the model's scale, which is at most 100"
    is_costly = True

    def __init__(
        self,
        model: str = "yuvalkirstain/PickScore_v1",
        processor: str | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        scale: str = "logit",
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        if scale not in RANGES:
            raise ValueError(f"pick_score: no scale {scale!r}; choose one of {sorted(RANGES)}")
        self.range = RANGES[scale]
        self.unit = self.unit if scale == "logit" else "cosine"
        self._is_logit = scale == "logit"
        self._model, self._processor = model, processor
        self._device, self._batch_size = device, require_batch_size(batch_size)

    def load(self) -> None:
        _ = self._encoder

    @cached_property
    def _encoder(self) -> ClipEncoder:
        return ClipEncoder(self._model, processor=self._processor, device=self._device, batch_size=self._batch_size)

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        if not inputs:
            return []
        pairs = [image_and_prompt(item, i) for i, item in enumerate(inputs)]
        cosines = self._encoder.cosines([image for image, _ in pairs], [prompt for _, prompt in pairs])
        factor = self._encoder.logit_scale if self._is_logit else 1.0
        return (factor * cosines).tolist()

    def check_prompt(self, prompt: RewardInput) -> None:
        check_image_prompt(prompt)
