"""The LLaDA/MMaDA transformer: from token ids to hidden states, and to logits or log-probabilities where they are
read.

A bidirectional Llama-style model: every position attends to every other, and the logits at a position predict the
token at that position. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.generic import ModelOutput

from unigrpo import CheckpointError
from unigrpo.models.fused_ops import FusedOps
from unigrpo.models.mmada_config import MMadaConfig
from unigrpo.models.output_head import Head
from unigrpo.models.packed_rows import VARLEN, PackedRows
from unigrpo.models.sampling.cache import KeyValueCache
from unigrpo.models.transformer_block import Block, RMSNorm, rotary_table, select
from unigrpo.models.transformers_output import quiet_saving
from unigrpo.models.weight_files import give_modes_of_config


@dataclass
class MMadaOutput(ModelOutput):
    """Result of a forward pass."""

    logits: Float[Tensor, "*any V"] | None = None
    """Logits (B, L, V'), or (N, V') at ``positions``; None where log-probabilities were requested."""
    log_probs: Float[Tensor, " N"] | None = None
    """Log-probabilities of ``targets``, float32, nats."""
    exact_kl: Float[Tensor, " N"] | None = None
    """KL divergence to the model of ``base`` at the positions of ``targets``, in nats; None without ``base``."""
    hidden: Float[Tensor, "M D"] | None = None
    """Hidden states at ``positions`` after the final norm; None unless only they were requested."""
    hidden_states: tuple[Float[Tensor, "B L D"], ...] | None = None
    """Inputs of all layers, and the output of the last layer before the final norm."""


class Transformer(nn.Module):
    """The parameters under their published names."""

    def __init__(self, config: MMadaConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.embedding_size, config.d_model)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        self.ln_f = RMSNorm(config.d_model, config.rms_norm_eps)
        self.ff_out = Head(config.d_model, config.embedding_size, bias=False)


class MMadaModelLM(PreTrainedModel):
    """The masked-diffusion language model of MMaDA and LLaDA."""

    config_class = MMadaConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]  # noqa: RUF012  # as transformers declares it
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True
    config: MMadaConfig

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Saves the model as transformers does. The permissions of the files follow the umask."""
        with quiet_saving():
            super().save_pretrained(save_directory, *args, **kwargs)
        give_modes_of_config(Path(save_directory))

    def __init__(self, config: MMadaConfig) -> None:
        super().__init__(config)
        self.model = nn.ModuleDict({"transformer": Transformer(config)})
        self.fused_ops = FusedOps()
        self.gradient_checkpointing = False
        self.post_init()

    @property
    def transformer(self) -> Transformer:
        """Embedding, blocks, final norm and head."""
        return self.model["transformer"]  # type: ignore[return-value]

    def set_fused_ops(self, functions: FusedOps) -> None:
        """Sets the functions between the matrix products of all layers."""
        self.fused_ops = functions
        for module in self.modules():
            if isinstance(module, (RMSNorm, Block)):
                module.fused_ops = functions

    def get_input_embeddings(self) -> nn.Embedding:
        return self.transformer.wte

    def get_output_embeddings(self) -> nn.Linear:
        return self.transformer.ff_out

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.init_std)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        attention_mask: Bool[Tensor, "B K"] | Bool[Tensor, "B 1 L K"] | None = None,
        *,
        inputs_embeds: Float[Tensor, "B L D"] | None = None,
        positions: Bool[Tensor, "B L"] | None = None,
        num_positions: int | None = None,
        targets: Int[Tensor, " N"] | None = None,
        vocab_slice: tuple[int, int] | None = None,
        is_sliced: Bool[Tensor, " N"] | None = None,
        is_guided: Bool[Tensor, " N"] | None = None,
        guidance_scale: float = 0.0,
        temperature: float | Float[Tensor, " N"] = 1.0,
        base: Float[Tensor, "M D"] | None = None,
        without_head: bool = False,
        output_hidden_states: bool = False,
        cache: KeyValueCache | None = None,
    ) -> MMadaOutput:
        """Runs the transformer and applies the head only where its output is requested.

        Args:
            input_ids: Token ids; unnecessary with ``inputs_embeds``.
            attention_mask: True on real tokens, to which all tokens attend; or which query (axis 2) attends to which
                key (axis 3). None: all attend to all, which is faster than a mask that says so. With the attention
                implementation `varlen`, the padding of the first form is not computed, and ``positions`` must be real.
            inputs_embeds: Embeddings that replace those of ``input_ids``.
            positions: Where to apply the head: N positions, in row-major order. None: everywhere.
            num_positions: Number of ``positions`` that are True. With it, the CPU need not wait for the device.
            targets: Tokens at ``positions`` whose log-probabilities are returned; then no logits are returned or
                stored.
            vocab_slice: First and one-past-last id that the head computes; the softmax is over these alone.
            is_sliced: Targets to which the slice applies; the others use the whole vocabulary. None applies it to all.
            is_guided: Targets whose logits are those of classifier-free guidance. The last ``positions`` are then
                those of the unconditional rows, one for each of these targets in their order; all use the slice.
            guidance_scale: Scale of the guidance of these targets.
            temperature: Divisor of the logits before the softmax of ``targets``; one for all or one for each.
            base: Hidden states at ``positions`` of another model with the same head, such as the model without its
                adapters. With them, the KL divergence to that model is also returned.
            without_head: Return only the hidden states at ``positions``.
            output_hidden_states: Also return the residual stream between the layers.
            cache: A new cache is filled by this pass. With a filled one, ``input_ids`` and ``positions`` are the
                columns from ``cache.first`` on, and ``attention_mask`` is still that of whole rows.

        Raises:
            ValueError: The mask contains floats, or the number of targets differs from that of positions.
        """
        hidden = self.transformer.wte(input_ids) if inputs_embeds is None else inputs_embeds
        device, first = hidden.device, 0 if cache is None else cache.first
        columns = slice(first, first + hidden.shape[1])
        mask: Any = self._attention_mask(attention_mask, columns)
        head_dim = self.config.d_model // self.config.n_heads
        cos, sin = (part[columns] for part in rotary_table(columns.stop, head_dim, self.config.rope_theta, device))
        states = [hidden] if output_hidden_states else None
        index = None if positions is None else _flat_index(positions, num_positions)
        packed = None
        if self._packs(attention_mask) and cache is None and states is None:
            packed = mask = PackedRows.of(attention_mask.bool())
            hidden, (cos, sin) = packed.without_padding(hidden), (part[packed.token % len(cos)] for part in (cos, sin))
            index = None if index is None else packed.place.flatten()[index]
        for layer, block in enumerate(self.transformer.blocks):
            is_last = layer == len(self.transformer.blocks) - 1
            read = index if is_last and states is None else None
            if self.gradient_checkpointing and self.training:
                hidden = checkpoint(block, hidden, mask, cos, sin, None, read, use_reentrant=False)
            else:
                hidden = block(hidden, mask, cos, sin, None if cache is None else partial(cache.update, layer), read)
            if states is not None:
                states.append(hidden)
        kept = None if states is None else tuple(states)
        if index is not None and states is not None:
            hidden = select(hidden, index)
        if packed is not None and index is None:
            hidden = packed.with_padding(hidden)
        hidden = self.transformer.ln_f(hidden)
        if without_head:
            return MMadaOutput(hidden=hidden)
        if targets is None:
            return MMadaOutput(logits=self.transformer.ff_out(hidden, vocab_slice), hidden_states=kept)
        num_guided = 0 if is_guided is None else int(is_guided.sum())
        if hidden.dim() != 2 or len(targets) + num_guided != len(hidden):
            where = f"{len(hidden)} positions" if hidden.dim() == 2 else "no positions"
            raise CheckpointError(f"{len(targets)} targets for {where}; give one target for each True of positions")
        temperatures = torch.as_tensor(temperature, device=device).expand(len(targets))
        scores = self.transformer.ff_out(
            hidden,
            vocab_slice,
            targets=targets,
            temperatures=temperatures,
            is_sliced=is_sliced,
            is_guided=is_guided,
            guidance_scale=guidance_scale,
            base=base,
        )
        if base is None:
            return MMadaOutput(log_probs=scores, hidden_states=kept)
        return MMadaOutput(log_probs=scores[:, 0], exact_kl=scores[:, 1], hidden_states=kept)

    def _packs(self, mask: Tensor | None) -> TypeGuard[Tensor]:
        """Whether padding is left out: not where the tokens of a row attend to different keys."""
        return self.config._attn_implementation == VARLEN and mask is not None and mask.dim() == 2

    def _attention_mask(self, mask: Tensor | None, columns: slice = slice(None)) -> Tensor | None:
        """Returns the mask in the form of the attention kernels, for queries in ``columns``."""
        if mask is None:
            return None
        if mask.is_floating_point():
            raise CheckpointError(
                f"attention_mask is {mask.dtype}, expected bool or integers: True where a token may be attended to, "
                "and not numbers to add to the scores"
            )
        mask = mask.bool()
        if mask.dim() == 4 or "flash" in (self.config._attn_implementation or ""):
            return mask
        # A query that sees nothing has no softmax: let padding queries see everything, since nobody reads them.
        return mask[:, None, None, :] | ~mask[:, None, columns, None]


def _flat_index(positions: Bool[Tensor, "B L"], count: int | None) -> Int[Tensor, " N"]:
    """Returns the indices among all B L positions at which ``positions`` is True.

    Without their number, the CPU waits for the GPU to count them."""
    if count is None:
        return positions.flatten().nonzero()[:, 0]
    return torch.nonzero_static(positions.flatten(), size=count, fill_value=0)[:, 0]


AutoConfig.register("mmada", MMadaConfig)
AutoModel.register(MMadaConfig, MMadaModelLM)
AutoModelForCausalLM.register(MMadaConfig, MMadaModelLM)
