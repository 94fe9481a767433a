"""Human preference for an image given its prompt, by PickScore: a CLIP that was trained on people's choices."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rewards.imaging.batches import require_batch_size
from rewards.imaging.clip import CLIP_H, ClipEncoder
from rewards.imaging.clip_reward import ClipReward
from rewards.imaging.weights import model_folder, processor_folder

RANGES = {"logit": (-100.0, 100.0), "cosine": (-1.0, 1.0)}


class PickScore(ClipReward):
    """Scaled cosine of the embeddings of a generated image and its prompt.

    Args:
        model: Folder or Hub name of the ``CLIPModel``.
        processor: Folder or Hub name of the tokenizer and the image processor, which the published model does not
            contain. None uses those of the model.
        scale: ``logit``: the cosine times the model's own scale, as published (about 20); or ``cosine``.
        device: ``auto``, ``cpu``, ``cuda`` ...
        batch_size: Largest number of images that are encoded at once.

    Source:
        Pick-a-Pic, arXiv:2305.01569, equation 1.
    """

    name = "pick_score"
    range = RANGES["logit"]
    unit = "logit: cosine times the model's scale, which is at most 100"
    hub_options: ClassVar = {"model": model_folder, "processor": processor_folder}

    def __init__(
        self,
        model: str = "yuvalkirstain/PickScore_v1",
        processor: str | None = CLIP_H,
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

    def load_encoder(self) -> ClipEncoder:
        return ClipEncoder(self._model, processor=self._processor, device=self._device, batch_size=self._batch_size)

    def values(self, cosines: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        return (self.encoder.logit_scale if self._is_logit else 1.0) * cosines
