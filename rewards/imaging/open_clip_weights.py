"""CLIP weights in open_clip's names, as HPSv2 is published, loaded into a ``CLIPModel`` of transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from transformers import AutoConfig, CLIPConfig, CLIPModel

from rewards.imaging.weights import load_exactly, processor_folder, read_weights

_NAMES = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
}
_TRANSPOSED = ("text_projection", "visual.proj")
"""Matrices that open_clip multiplies from the right."""
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_PARTS = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_UNUSED = ("attn_mask",)
"""A buffer that transformers computes."""


def load_open_clip(path: Path, config_of: str) -> CLIPModel:
    """Returns a CLIP in float32 from a file of open_clip.

    Args:
        path: File of weights, with or without the levels ``state_dict`` and ``module.`` of a training checkpoint.
        config_of: Folder or Hub name of a ``CLIPModel`` of the same architecture.

    Raises:
        ValueError: There is no such config, or the weights are those of another architecture.
    """
    folder = processor_folder(config_of)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{config_of!r} has no config that transformers can read: {error}") from error
    if not isinstance(config, CLIPConfig):
        raise ValueError(f"{config_of!r} is a {config.model_type!r}; expected the config of a 'clip' (CLIPModel)")
    with torch.device("meta"):
        model = CLIPModel(config)
    weights = {name: value.float() for name, value in to_transformers_names(read_weights(path)).items()}
    load_exactly(model, weights, str(path), assign=True)
    with torch.device("cpu"):
        for tower in (model.text_model.embeddings, model.vision_model.embeddings):
            ids = torch.arange(tower.position_embedding.num_embeddings)[None]
            tower.position_ids = nn.Buffer(ids, persistent=False)
    return model.eval().requires_grad_(False)


def to_transformers_names(weights: Mapping[str, Shaped[Tensor, "*_"]]) -> dict[str, Shaped[Tensor, "*_"]]:
    """Returns the weights under the names of a ``CLIPModel``.

    The joint matrix of queries, keys and values of a block becomes three. Names that belong to no CLIP stay as they
    are, so that :func:`~rewards.imaging.weights.load_exactly` reports them.
    """
    renamed: dict[str, Tensor] = {}
    for full_name, value in weights.items():
        name = full_name.removeprefix("module.")
        block = _BLOCK.fullmatch(name)
        if block is not None:
            tower = "vision_model" if block[1] else "text_model"
            renamed |= _block_weights(f"{tower}.encoder.layers.{block[2]}.", block[3], value)
        elif name not in _UNUSED:
            renamed[_NAMES.get(name, name)] = value.T.contiguous() if name in _TRANSPOSED else value
    return renamed


def _block_weights(prefix: str, name: str, value: Tensor) -> dict[str, Tensor]:
    """Returns the weights of one entry of a transformer block."""
    part, _, kind = name.rpartition(".")
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        names = [f"{prefix}self_attn.{letter}_proj.{kind}" for letter in "qkv"]
        return dict(zip(names, value.chunk(3), strict=True))
    return {f"{prefix}{_PARTS.get(part, part)}.{kind}": value}
