"""The base class of rewards that are a cosine of CLIP embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rewards.base import Reward, RewardInput
from rewards.imaging.batches import check_image_prompt, image_and_prompt
from rewards.imaging.clip import ClipEncoder


class ClipReward(Reward):
    """A function of the cosine between the embeddings of a generated image and its prompt."""

    is_costly = True

    def load_encoder(self) -> ClipEncoder:
        """Loads the CLIP, in the reward's own process."""
        raise NotImplementedError

    def values(self, cosines: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Returns the rewards of cosines."""
        raise NotImplementedError

    def image_and_text(self, item: RewardInput, index: int) -> tuple[Image.Image, str]:
        """Returns what is compared of the sample at this index of the batch."""
        return image_and_prompt(item, index)

    def load(self) -> None:
        _ = self.encoder

    @cached_property
    def encoder(self) -> ClipEncoder:
        """The CLIP, which is loaded once."""
        return self.load_encoder()

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        if not inputs:
            return []
        images, texts = zip(*(self.image_and_text(item, i) for i, item in enumerate(inputs)), strict=True)
        return self.values(self.encoder.cosines(images, texts)).tolist()

    def check_prompt(self, prompt: RewardInput) -> None:
        check_image_prompt(prompt)
