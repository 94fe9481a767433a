"""Counts the floating-point operations of the passes of a model during the passes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from unigrpo.config import LoRAConfig
from unigrpo.cost.memory import ModelSize
from unigrpo.cost.step_time import pass_flops
from unigrpo.models.mmada import MMadaConfig


class FlopMeter:
    """Counts the floating-point operations of a model's passes, from the shapes of their inputs."""

    def __init__(self, model: PreTrainedModel, lora: LoRAConfig) -> None:
        """Starts to count.

        Args:
            model: The model whose passes are counted from now on.
            lora: Settings of its adapters.
        """
        self.flops = 0.0
        config = cast(MMadaConfig, model.config)
        self._size = ModelSize.of(config, lora)
        self._last_matrix = config.d_model * config.mlp_hidden_size
        """Number of weights of the last matrix of a layer."""
        self._watched = model
        self._hook(model)

    def watch(self, model: PreTrainedModel) -> AbstractContextManager[Any]:
        """Counts the passes of a copy, too, as long as the context lives; the model itself is counted already."""
        return nullcontext() if model is self._watched else self._hook(model)

    def _hook(self, model: PreTrainedModel) -> RemovableHandle:
        return model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens: torch.Tensor = args[0] if args else kwargs["input_ids"]
        rows, columns = tokens.shape
        cache = kwargs.get("cache")
        seen = cache.num_columns if cache is not None and cache.is_filled else columns
        whole = self._size.vocabulary_size
        first, last = kwargs.get("vocab_slice") or (0, whole)
        read, guided = _num_read(tokens, kwargs), _num_true(kwargs.get("is_guided"))
        sliced = read if kwargs.get("is_sliced") is None else _num_true(kwargs["is_sliced"]) + guided
        layers, head = pass_flops(
            self._size, rows * columns, rows * columns * seen, read, sliced * (last - first) + (read - sliced) * whole
        )
        head = 0.0 if kwargs.get("without_head") else head
        of_base = 0.0 if kwargs.get("base") is None else head  # its hidden states are given, its logits are computed
        if torch.is_grad_enabled() and module.training:
            # Backward: the gradients of activations, and those of the weights that are trained.
            backward = 1 + self._size.num_trainable / self._size.num_parameters
            again = 0.0
            if module.gradient_checkpointing:  # a layer is computed again up to its last matrix, whose input suffices
                tokens_of_layers = (self._size.num_layers - 1) * rows * columns + read
                again = layers - 2 * self._last_matrix * tokens_of_layers
            layers += layers * backward + again
            head *= 2 + backward  # its logits are computed again instead of kept
            of_base *= 2
        self.flops += layers + head + of_base


def _num_read(tokens: torch.Tensor, kwargs: dict[str, Any]) -> int:
    """Returns the number of positions that the head reads: the unconditional rows of guidance have theirs, too."""
    if kwargs.get("targets") is not None:
        return len(kwargs["targets"]) + _num_true(kwargs.get("is_guided"))
    if kwargs.get("num_positions") is not None:
        return kwargs["num_positions"]
    return tokens.numel() if kwargs.get("positions") is None else int(kwargs["positions"].sum())


def _num_true(mask: torch.Tensor | None) -> int:
    return 0 if mask is None else int(mask.sum())
