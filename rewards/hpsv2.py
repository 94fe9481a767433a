"""Human preference for an image given its prompt, by HPSv2: a CLIP-H that was trained on people's choices."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from rewards.imaging.batches import require_batch_size
from rewards.imaging.clip import CLIP_H, ClipEncoder
from rewards.imaging.clip_reward import ClipReward
from rewards.imaging.open_clip_weights import load_open_clip
from rewards.imaging.weights import find_file, local_path, processor_folder

FILES = ("HPS_v2.1_compressed.pt", "HPS_v2_compressed.pt")
"""Published files, the newer version first."""


def model_path(model: str) -> Path:
    """Returns the file or folder of the weights; a file of the Hub is downloaded."""
    return local_path(model) or find_file(model, FILES)


class HpsV2(ClipReward):
    """Cosine of the embeddings of a generated image and its prompt.

    Args:
        model: The published file ``HPS_v2.1_compressed.pt`` or ``HPS_v2_compressed.pt`` (version 2.0); a folder or Hub
            name with one of them, of which 2.1 is preferred; or a folder with a ``CLIPModel`` of transformers.
        processor: Folder or Hub name of a CLIP-H with its config, tokenizer and image processor, which the published
            files do not contain.
        scale: ``cosine``, as published (about 0.3); or ``percent``: 100 times the cosine.
        device: ``auto``, ``cpu``, ``cuda`` ...
        batch_size: Largest number of images that are encoded at once.

    Source:
        HPS v2, arXiv:2306.09341, section 4.
    """

    name = "hpsv2"
    range = (-1.0, 1.0)
    unit = "cosine"
    hub_options: ClassVar = {"model": model_path, "processor": processor_folder}

    def __init__(
        self,
        model: str = "xswu/HPSv2",
        processor: str = CLIP_H,
        scale: str = "cosine",
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        if scale not in ("cosine", "percent"):
            raise ValueError(f"hpsv2: no scale {scale!r}; choose one of ['cosine', 'percent']")
        self._factor = 100.0 if scale == "percent" else 1.0
        self.range = (-self._factor, self._factor)
        self.unit = "100 times the cosine" if scale == "percent" else self.unit
        self._model, self._processor = model, processor
        self._device, self._batch_size = device, require_batch_size(batch_size)

    def load_encoder(self) -> ClipEncoder:
        path = local_path(self._model)
        is_transformers = path is not None and (path / "config.json").is_file()
        model = self._model if is_transformers else load_open_clip(find_file(self._model, FILES), self._processor)
        return ClipEncoder(model, processor=self._processor, device=self._device, batch_size=self._batch_size)

    def values(self, cosines: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        return self._factor * cosines
