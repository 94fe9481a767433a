"""ImageReward's network on transformers' BLIP classes, and how its published weights are named there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import transformers  # whose models are imported where they are named: a check of prompts needs none
from jaxtyping import Float, Int, Shaped
from PIL import Image
from torch import Tensor, nn

from rewards.imaging.score_head import ScoreHead

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the head's numbers over the authors' data, which standardise the published reward."""
HEAD_WIDTH = 64
"""Number of components of an attention head, in the image encoder and in the text encoder."""
MAX_TOKENS = 35
CHANNEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
CHANNEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviations of CLIP, and not of BLIP, which has 384 pixels and no crop."""

VISION, TEXT, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
PARTS = {VISION: "vision.", TEXT: "text.", HEAD: "head."}
UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|blip\.text_encoder\.embeddings\.position_ids$")
RENAMED = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj.", "embeddings.patch_embedding."),
    ("norm.", "post_layernorm."),
    ("blocks.", "encoder.layers."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
)
"""Parts of names of the image encoder, published and in ``BlipVisionModel``; no tensor is transposed."""


class ImageRewardModel(nn.Module):
    """An image encoder, a text encoder with attention to all tokens, and a head on the first token of the text.

    Source:
        ImageReward, arXiv:2304.05977, section 3.1; the sizes follow the weights.
    """

    def __init__(self, vision: transformers.BlipVisionConfig, text: transformers.BlipTextConfig) -> None:
        super().__init__()
        self.vision = transformers.BlipVisionModel(vision)
        self.text = transformers.BlipTextModel(text, add_pooling_layer=False)
        self.head = ScoreHead(text.hidden_size)

    @property
    def image_size(self) -> int:
        """Height and width to which the images are resized."""
        side = self.vision.config.image_size
        assert isinstance(side, int)
        return side

    def forward(
        self, token_ids: Int[Tensor, "N L"], attention_mask: Int[Tensor, "N L"], pixels: Float[Tensor, "N 3 S S"]
    ) -> Float[Tensor, " N"]:
        """Returns rewards of pairs.

        Args:
            token_ids: Tokens of each text.
            attention_mask: 1 for a token, 0 for padding.
            pixels: Images, as :func:`to_pixels` makes them.

        Returns:
            Rewards, in standard deviations over the authors' data.
        """
        image_tokens = self.vision(pixel_values=pixels).last_hidden_state
        hidden = self.text_hidden(token_ids, attention_mask, image_tokens)
        return (self.head(hidden[:, 0]) - MEAN) / STD

    def text_hidden(
        self, token_ids: Int[Tensor, "N L"], attention_mask: Int[Tensor, "N L"], image_tokens: Float[Tensor, "N P D"]
    ) -> Float[Tensor, "N L width"]:
        """Returns the hidden states of the text encoder: each token attends to the whole text and image."""
        return self.text(
            input_ids=token_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=image_tokens,
            is_decoder=False,  # True, as in the config that builds the cross-attention, would hide later tokens
        ).last_hidden_state


def configs_of(
    weights: Mapping[str, Shaped[Tensor, "*_"]], *, vision_heads: int | None = None, text_heads: int | None = None
) -> tuple[transformers.BlipVisionConfig, transformers.BlipTextConfig]:
    """Returns the sizes of an ImageReward with these weights.

    Args:
        weights: Weights with their published names.
        vision_heads: Number of attention heads of the image encoder; None: as published, of 64 components each.
        text_heads: Number of attention heads of the text encoder, likewise.

    Raises:
        ValueError: The weights are those of another architecture.
    """
    try:
        width, _, patch, _ = weights[VISION + "patch_embed.proj.weight"].shape
        num_patches = weights[VISION + "pos_embed"].shape[1] - 1
        vision_mlp = weights[VISION + "blocks.0.mlp.fc1.weight"].shape[0]
        vocabulary, text_width = weights[TEXT + "embeddings.word_embeddings.weight"].shape
        max_positions = weights[TEXT + "embeddings.position_embeddings.weight"].shape[0]
        text_mlp = weights[TEXT + "encoder.layer.0.intermediate.dense.weight"].shape[0]
        seen_width = weights[TEXT + "encoder.layer.0.crossattention.self.key.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"not the weights of an ImageReward: no {error}; found {sorted(weights)[:5]} ...") from error
    vision_heads = vision_heads or max(1, width // HEAD_WIDTH)
    text_heads = text_heads or max(1, text_width // HEAD_WIDTH)
    if width % vision_heads or text_width % text_heads:
        raise ValueError(f"{vision_heads} and {text_heads} heads do not divide the widths {width} and {text_width}")
    vision = transformers.BlipVisionConfig(
        hidden_size=width,
        intermediate_size=vision_mlp,
        num_hidden_layers=_num_layers(weights, VISION + r"blocks\.(\d+)\."),
        num_attention_heads=vision_heads,
        image_size=patch * round(num_patches**0.5),
        patch_size=patch,
        layer_norm_eps=1e-6,  # timm's; transformers' 1e-5 moves rewards by up to 4e-5
    )
    text = transformers.BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=text_width,
        encoder_hidden_size=seen_width,
        intermediate_size=text_mlp,
        num_hidden_layers=_num_layers(weights, TEXT + r"encoder\.layer\.(\d+)\."),
        num_attention_heads=text_heads,  # transformers' 8 would load without a word and compute something else
        max_position_embeddings=max_positions,
        is_decoder=True,  # builds the cross-attention
        pad_token_id=0,
        bos_token_id=None,
        sep_token_id=None,
    )
    return vision, text


def to_transformers_names(weights: Mapping[str, Shaped[Tensor, "*_"]]) -> dict[str, Shaped[Tensor, "*_"]]:
    """Changes published names to names of :class:`ImageRewardModel` and leaves out what the reward does not use."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if UNUSED.match(name):
            continue
        for published, ours in PARTS.items():
            if name.startswith(published):
                name = ours + name.removeprefix(published)
                break
        if name.startswith("vision."):
            for published, ours in RENAMED:
                name = name.replace(published, ours)
        renamed[name] = value
    return renamed


def to_published_names(weights: Mapping[str, Shaped[Tensor, "*_"]]) -> dict[str, Shaped[Tensor, "*_"]]:
    """Changes names of :class:`ImageRewardModel` to published names."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith("vision."):
            for published, ours in RENAMED:
                name = name.replace(ours, published)
        part = name.partition(".")[0] + "."
        published = next(key for key, ours in PARTS.items() if ours == part)
        renamed[published + name.removeprefix(part)] = value
    return renamed


def to_pixels(images: Sequence[Image.Image], size: int) -> Float[Tensor, "N 3 {size} {size}"]:
    """Converts RGB images to float32: shorter side to ``size``, middle square, CLIP's mean and deviation.

    Sides and margins are rounded as torchvision does, which the published preprocessing uses; transformers' processor
    takes another column where an odd number of columns is cut off.
    """
    return torch.stack([_pixels(image, size) for image in images])


def _pixels(image: Image.Image, size: int) -> Tensor:
    shorter = min(image.size)
    width, height = (int(size * side / shorter) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    array = np.asarray(resized.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    standard = (array - np.array(CHANNEL_MEAN, np.float32)) / np.array(CHANNEL_STD, np.float32)
    return torch.from_numpy(standard).permute(2, 0, 1).contiguous()


def _num_layers(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, weights) if match})
