"""Human preference for an image given its prompt, by ImageReward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor

from rewards.base import Reward, RewardInput
from rewards.imaging.batches import (
    check_image_prompt,
    image_and_prompt,
    require_batch_size,
    slices,
)
from rewards.imaging.devices import choose_device
from rewards.imaging.image_reward_files import load_image_reward, weights_file
from rewards.imaging.image_reward_model import MAX_TOKENS, ImageRewardModel, to_pixels
from rewards.imaging.prompt_tokens import PromptTokens
from rewards.imaging.weights import processor_folder

MODEL = "zai-org/ImageReward"
TOKENIZER = "google-bert/bert-base-uncased"


class ImageReward(Reward):
    """A network that was trained on people's comparisons of generated images.

    Args:
        model: The published ``ImageReward.pt``, or a folder or Hub name with it or with the safetensors made from it.
        tokenizer: Folder or Hub name of the BERT tokenizer. None uses the one in the model's folder, or otherwise the
            published :data:`TOKENIZER`.
        device: ``auto``, ``cpu``, ``cuda`` ...
        batch_size: Largest number of images that are scored at once.

    Source:
        ImageReward, arXiv:2304.05977.
    """

    name = "image_reward"
    range = (float("-inf"), float("inf"))
    unit = "standard deviations over the authors' data; 0 is their mean"
    is_costly = True
    hub_options: ClassVar = {"model": weights_file, "tokenizer": processor_folder}

    def __init__(
        self,
        model: str = MODEL,
        tokenizer: str | None = None,
        device: str = "auto",
        batch_size: int = 32,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._device, self._batch_size = device, require_batch_size(batch_size)

    @classmethod
    def local_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        model, tokenizer = options.get("model", MODEL), options.get("tokenizer")
        return super().local_options({**options, "tokenizer": tokenizer or _own_tokenizer(model) or TOKENIZER})

    def load(self) -> None:
        _ = self._tokens

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        pairs = [image_and_prompt(item, i) for i, item in enumerate(inputs)]
        scores: list[float | None] = []
        for part in slices(pairs, self._batch_size):
            token_ids, mask = self._tokens([prompt for _, prompt in part])
            pixels = to_pixels([image for image, _ in part], self._network.image_size)
            scores += self._score(token_ids, mask, pixels)
        return scores

    def check_prompt(self, prompt: RewardInput) -> None:
        check_image_prompt(prompt)

    def _score(self, *arguments: Tensor) -> list[float]:
        device = choose_device(self._device)
        return self._network(*(argument.to(device) for argument in arguments)).tolist()

    @cached_property
    def _network(self) -> ImageRewardModel:
        return load_image_reward(self._model).to(choose_device(self._device))

    @cached_property
    def _tokens(self) -> PromptTokens:
        num_embeddings = self._network.text.config.vocab_size
        name = self._tokenizer or _own_tokenizer(self._model) or TOKENIZER
        folder = processor_folder(name)
        try:
            tokenizer = transformers.BertTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ValueError(f"image_reward: {name!r} has no BERT tokenizer: {error}") from error
        return PromptTokens(
            tokenizer,
            MAX_TOKENS,
            end_id=tokenizer.sep_token_id,
            num_embeddings=num_embeddings,
        )


def _own_tokenizer(model: str) -> str | None:
    path = processor_folder(model)
    folder = path if path.is_dir() else path.parent
    return str(folder) if any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json")) else None
