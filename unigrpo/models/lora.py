"""LoRA (arXiv:2106.09685) on the layers of the transformer, with peft. The base weights do not change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import peft
import torch
from jaxtyping import Shaped
from torch import Tensor
from transformers import PreTrainedModel

from unigrpo.config import LoRAConfig

BASE, DOWN, UP = ".base_layer.weight", ".lora_A.default.weight", ".lora_B.default.weight"
"""Endings of peft's names for a layer's weights."""


def add_lora(model: PreTrainedModel, settings: LoRAConfig) -> None:
    """Adds new adapters to the layers of all blocks, and freezes all other weights. New adapters do not change
    outputs.

    Args:
        model: The model, which is changed in place. Embedding and head get no adapter.
        settings: Rank, scale and layers.
    """
    layers = "|".join(settings.target_modules)
    model.add_adapter(
        peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=rf".*\.blocks\.\d+\.({layers})")
    )


def add_adapters_like(copy: PreTrainedModel, model: PreTrainedModel) -> None:
    """Adds adapters of the same form to a copy without weights, if the model has any."""
    if getattr(model, "peft_config", None):
        with torch.device("meta"):
            copy.add_adapter(model.peft_config["default"])  # type: ignore[index]


@contextmanager
def without_lora(model: PreTrainedModel) -> Iterator[None]:
    """Disables the adapters inside the context."""
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


def merge_lora(model: PreTrainedModel, weights: Mapping[str, Shaped[Tensor, "*_"]]) -> dict[str, Shaped[Tensor, "*_"]]:
    """Returns the merged weights W + alpha / rank * B A, under the names of the model without adapters.

    The sums are always float32. In bfloat16, a change smaller than half the distance of two numbers, 6e-5 for a weight
    of 0.02, would be lost, and with it most of the effect of a short training. The sums are on the CPU, because the
    GPU has too little free memory during training.

    Args:
        model: A model with or without adapters.
        weights: Its weights, which may come from other processes.
    """
    if not getattr(model, "peft_config", None):
        return dict(weights)
    settings: Any = model.peft_config["default"]  # type: ignore[index]
    scale = settings.lora_alpha / settings.r
    result: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.endswith(BASE):
            layer = name.removesuffix(BASE)
            change = weights[layer + UP].float() @ weights[layer + DOWN].float()
            result[layer + ".weight"] = (weight.float() + scale * change).cpu()
        elif not name.endswith((DOWN, UP)):
            result[name] = weight
    return result
