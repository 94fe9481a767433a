"""CLIP as an encoder of texts and images into unit vectors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
import transformers  # whose models are imported where they are named: a check of prompts needs none
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from rewards.imaging.batches import require_batch_size, slices
from rewards.imaging.devices import choose_device
from rewards.imaging.prompt_tokens import PromptTokens
from rewards.imaging.weights import model_folder, processor_folder, require_finite

CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""Hub name of the CLIP-H whose processor PickScore and HPSv2 use."""
LEGACY_END_ID = 2
"""Wrong end id in OpenAI's published configs, with which transformers pools at the largest id of a text."""


class ClipEncoder:
    """A ``CLIPModel`` in float32: bfloat16 moves cosines by 2e-3, as much as good and bad samples of a group differ.

    Args:
        model: Folder or Hub name with the model, or a loaded one.
        processor: Folder or Hub name with the tokenizer and the image processor; None: that of the model's folder.
        device: torch's name, or ``auto``.
        batch_size: Largest number of texts or images that are encoded at once.

    Raises:
        ValueError: No such model, another architecture, weights that are missing or not finite, or a processor of
            another model.

    Source:
        CLIP, arXiv:2103.00020, section 2.4 and figure 3.
    """

    def __init__(
        self,
        model: str | transformers.CLIPModel,
        *,
        processor: str | None = None,
        device: str = "auto",
        batch_size: int = 64,
    ) -> None:
        if processor is None:
            if not isinstance(model, str):
                raise ValueError("a loaded model has no folder; name that of its tokenizer and image processor")
            processor = model
        self._batch_size = require_batch_size(batch_size)
        self._device = choose_device(device)
        loaded = _load_model(model) if isinstance(model, str) else model
        self._model = loaded.to(self._device)  # pyright: ignore[reportArgumentType]
        self._tokens, self._image_processor = _load_processor(processor, self._model.config)

    @property
    def width(self) -> int:
        """Number of components of an embedding."""
        return self._model.visual_projection.out_features

    @property
    def logit_scale(self) -> float:
        """Factor of cosines in the training of CLIP, at most 100."""
        return self._model.logit_scale.exp().item()

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "N width"]:
        """Returns unit vectors on the CPU; equal texts are encoded once."""
        distinct = list(dict.fromkeys(texts))
        parts: list[Tensor] = []
        for part in slices(distinct, self._batch_size):
            token_ids, mask = (tensor.to(self._device) for tensor in self._tokens(part))
            parts.append(_pooled(self._model.get_text_features(input_ids=token_ids, attention_mask=mask)))
        rows = {text: i for i, text in enumerate(distinct)}
        return torch.cat(parts)[[rows[text] for text in texts]]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "N width"]:
        """Returns unit vectors on the CPU."""
        parts: list[Tensor] = []
        for part in slices(images, self._batch_size):
            pixels = self._image_processor(list(part), return_tensors="pt")["pixel_values"]
            parts.append(_pooled(self._model.get_image_features(pixel_values=pixels.to(self._device))))
        return torch.cat(parts)

    def cosines(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Float[Tensor, " N"]:
        """Returns the cosine of each image with its own text; other pairs are not compared."""
        return (self.encode_images(images) * self.encode_texts(texts)).sum(dim=1).clamp(-1.0, 1.0)


def _pooled(features: object) -> Tensor:
    pooled = getattr(features, "pooler_output", features)  # transformers 5 wraps the projected embedding
    assert isinstance(pooled, Tensor)
    return normalize(pooled.float(), dim=-1).cpu()


def _load_model(model: str) -> transformers.CLIPModel:
    source = model_folder(model)
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # in a file it is a wall of lines
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"model {model!r} has no config that transformers can read: {error}") from error
    if not isinstance(config, transformers.CLIPConfig):
        raise ValueError(f"model {model!r} is a {config.model_type!r}; this reward needs a 'clip' (CLIPModel)")
    try:
        loaded: Any = transformers.CLIPModel.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"model {model!r}: its weights do not load into a CLIPModel: {error}") from error
    clip, info = loaded
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "mismatched_keys") if info[kind]}
    if wrong:
        first = {kind: names[:3] for kind, names in wrong.items()}
        raise ValueError(f"model {model!r}: weights of another architecture: {first}")
    require_finite(clip.state_dict(), f"model {model!r}")
    return clip.eval().requires_grad_(False)


def _load_processor(
    processor: str, config: transformers.CLIPConfig
) -> tuple[PromptTokens, transformers.CLIPImageProcessorPil]:
    source = processor_folder(processor)
    text: Any = config.text_config
    vision: Any = config.vision_config
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        image_processor = transformers.CLIPImageProcessorPil.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"{processor!r} has no tokenizer or image processor of a CLIP: {error}") from error
    end_id = tokenizer.eos_token_id if text.eos_token_id == LEGACY_END_ID else text.eos_token_id
    tokens = PromptTokens(
        tokenizer,
        text.max_position_embeddings,
        end_id=end_id,
        num_embeddings=text.vocab_size,
    )
    side = vision.image_size
    probe = image_processor(Image.new("RGB", (2 * side, side)), return_tensors="pt")["pixel_values"]
    if probe.shape[2:] != (side, side):
        raise ValueError(
            f"{processor!r} makes images of {probe.shape[3]} x {probe.shape[2]} pixels, the model takes "
            f"{side} x {side}: they do not belong together"
        )
    return tokens, image_processor
