"""The LLaDA/MMaDA transformer: from token ids to hidden states, and to logits or log-probabilities where they are
read.

A bidirectional Llama-style model: every position attends to every other, and the logits at a position predict the
token at that position. Parameter names and config keys are those of the published checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import ModelOutput

from unigrpo import CheckpointError
from unigrpo.algorithm.kl import exact_kl
from unigrpo.models.fused_ops import FusedOps, add_residual
from unigrpo.models.sampling.cache import KeyValueCache
from unigrpo.models.sampling.remasking import guide
from unigrpo.models.vocabulary import PUBLISHED_IDS
from unigrpo.models.weight_files import give_modes_of_config
from unigrpo.models.wide_linear import wide_linear

HEAD_CHUNK_ROWS = 1024
"""Number of rows whose logits exist at once when only log-probabilities are requested."""


UpdateKeyValues = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes the keys and values of the columns that a pass computes and returns those of whole rows."""


class MMadaConfig(PretrainedConfig):
    """Sizes of the transformer, under the published key names. Other published keys are kept and not read."""

    model_type = "mmada"
    attribute_map: ClassVar = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
    }

    def __init__(
        self,
        d_model: int = 4096,
        n_layers: int = 32,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        mlp_hidden_size: int = 12288,
        vocab_size: int = 134656,
        embedding_size: int | None = None,
        rope_theta: float = 500000.0,
        rms_norm_eps: float = 1e-5,
        max_sequence_length: int = 4096,
        init_std: float = 0.02,
        mask_token_id: int = PUBLISHED_IDS["mask"],
        max_text_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.d_model = d_model
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        self.mlp_hidden_size = mlp_hidden_size
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size or vocab_size
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.max_sequence_length = max_sequence_length
        self.init_std = init_std
        self.mask_token_id = mask_token_id
        self.max_text_tokens = max_text_tokens  # of request and thoughts before an image (r2i), in its training
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)


@dataclass
class MMadaOutput(ModelOutput):
    """Result of a forward pass."""

    logits: Tensor | None = None
    """Logits (B, L, V'), or (N, V') at ``positions``; None where log-probabilities were requested."""
    log_probs: Tensor | None = None
    """Log-probabilities (N,) of ``targets``, float32, nats."""
    exact_kl: Tensor | None = None
    """KL divergence (N,) to the model of ``base`` at the positions of ``targets``, nats; None without ``base``."""
    hidden: Tensor | None = None
    """Hidden states (M, D) at ``positions`` behind the final norm; None unless they alone were requested."""
    hidden_states: tuple[Tensor, ...] | None = None
    """Input of every layer, and the output of the last layer before the final norm."""


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.fused_ops = FusedOps()

    def forward(self, x: Tensor) -> Tensor:
        return self.fused_ops.rms_norm(x, self.weight, self.eps)


def rotary_table(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines (L, head_dim) of positions 0..L-1, float32; dimension i pairs with i + head_dim /
    2."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), 1.0 / theta**exponent)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Computes attention with explicit matrix products and a float32 softmax: the reference for the kernels."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return (weights @ value).transpose(1, 2), None


def _flat_index(positions: Bool[Tensor, "B L"], count: int | None) -> Int[Tensor, " N"]:
    """Returns where ``positions`` is True in all B L positions. Without their count, the CPU waits for a GPU to learn
    it."""
    if count is None:
        return positions.flatten().nonzero()[:, 0]
    return torch.nonzero_static(positions.flatten(), size=count, fill_value=0)[:, 0]


def _select(hidden: Float[Tensor, "B L D"], index: Int[Tensor, " N"]) -> Float[Tensor, "N D"]:
    return hidden.flatten(0, 1).index_select(0, index)


class Block(nn.Module):
    """Pre-norm attention and gated MLP, each with a residual connection."""

    is_causal = False

    def __init__(self, config: MMadaConfig) -> None:
        super().__init__()
        width, head_dim = config.d_model, config.d_model // config.n_heads
        self.config = config
        self.fused_ops = FusedOps()
        self.head_dim = head_dim
        self.num_key_value_groups = config.n_heads // config.n_kv_heads
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = nn.Linear(width, config.n_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, config.n_kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, config.n_kv_heads * head_dim, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.up_proj = nn.Linear(width, config.mlp_hidden_size, bias=False)
        self.ff_out = nn.Linear(config.mlp_hidden_size, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        mask: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        update: UpdateKeyValues | None = None,
        index: Int[Tensor, " N"] | None = None,
    ) -> Tensor:
        """Returns the residual stream (B, L, D) after the block, or (N, D) at the positions ``index`` alone.

        All positions have keys and values, but what follows attention is computed only where the output is read.
        """
        residual = x if index is None else _select(x, index)
        x = add_residual(self._attend(self.attn_norm(x), mask, cos, sin, update, index), residual)
        h = self.ff_norm(x)
        return add_residual(self.ff_out(self.fused_ops.gate(self.ff_proj(h), self.up_proj(h))), x)

    def _attend(
        self,
        h: Tensor,
        mask: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        update: UpdateKeyValues | None,
        index: Tensor | None,
    ) -> Tensor:
        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        rotate = self.fused_ops.rotate
        query = rotate(heads(self.q_proj(h)), cos, sin)
        key, value = rotate(heads(self.k_proj(h)), cos, sin), heads(self.v_proj(h))
        if update is not None:
            key, value = update(key, value)
        attention: Callable[..., Any] = eager_attention
        if self.config._attn_implementation != "eager":
            attention = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        out, _ = attention(self, query, key, value, mask, dropout=0.0, scaling=self.head_dim**-0.5, is_causal=False)
        out = out.flatten(-2)
        return self.attn_out(out if index is None else _select(out, index))


class Head(nn.Linear):
    """The output head.

    A pass calls it once, whatever its rows are: under ZeRO-3 a call gathers the weights from all ranks, and ranks
    whose rows differ must gather equally often.
    """

    def forward(
        self,
        input: Tensor,
        vocab_slice: tuple[int, int] | None = None,
        *,
        targets: Int[Tensor, " N"] | None = None,
        temperatures: Float[Tensor, " N"] | None = None,
        is_sliced: Bool[Tensor, " N"] | None = None,
        is_guided: Bool[Tensor, " N"] | None = None,
        guidance_scale: float = 0.0,
        base: Float[Tensor, "M D"] | None = None,
    ) -> Tensor:
        """Returns the logits of the ids of ``vocab_slice``, or of all ids; with ``targets``, their log-probabilities
        (N,), or (N, 2) with ``base``: the second column is then the KL divergence to the base.

        Args:
            input: Hidden states; (N, D) with ``targets``, and after them one for each target of ``is_guided``.
            vocab_slice: First and one-past-last id that is computed.
            targets: Tokens whose log-probabilities are returned, in float32.
            temperatures: Divisor of the logits of each target.
            is_sliced: Targets to which the slice applies; the others use all ids. None applies it to all targets.
            is_guided: Targets of guidance, to all of which the slice applies.
            guidance_scale: Of these targets.
            base: Hidden states of another model with this head, in the order of ``input``.
        """
        if targets is None or temperatures is None:
            return self._logits(input, vocab_slice)
        if is_sliced is None and is_guided is None:
            return self._log_probs(input, targets, vocab_slice, temperatures, base=base)
        sliced = torch.ones_like(targets, dtype=torch.bool) if is_sliced is None else is_sliced
        number, has_base = len(targets), base is not None
        parts: list[tuple[Tensor, tuple[int, int] | None, bool]] = [(sliced, vocab_slice, False)]
        if is_sliced is not None:
            parts.append((~sliced, None, False))
        if is_guided is not None:
            parts[0] = (sliced & ~is_guided, vocab_slice, False)
            parts.append((is_guided, vocab_slice, True))
        result = input.new_zeros((number, 2) if has_base else (number,), dtype=torch.float32)
        for rows, ids, guided in parts:
            part = self._log_probs(
                input[:number][rows],
                targets[rows],
                ids,
                temperatures[rows],
                guides=input[number:] if guided else None,
                guidance_scale=guidance_scale,
                base=None if base is None else base[:number][rows],
                base_guides=base[number:] if base is not None and guided else None,
            )
            result = result.masked_scatter(rows[:, None].expand_as(result) if has_base else rows, part)
        return result

    def _logits(self, hidden: Tensor, vocab_slice: tuple[int, int] | None) -> Tensor:
        return F.linear(hidden, self.weight if vocab_slice is None else self.weight[slice(*vocab_slice)])

    def _log_probs(
        self,
        hidden: Tensor,
        targets: Tensor,
        vocab_slice: tuple[int, int] | None,
        temperatures: Tensor,
        *,
        guides: Tensor | None = None,
        guidance_scale: float = 0.0,
        base: Tensor | None = None,
        base_guides: Tensor | None = None,
    ) -> Float[Tensor, " N"] | Float[Tensor, "N 2"]:
        """Returns log-probabilities in chunks of rows; the backward pass computes the logits again instead of storing
        them.

        Fused losses serve an objective of ratios less well (``tests/benchmarks/log_probs.py``). Torch's
        ``linear_cross_entropy`` rounds bfloat16 results, knows a temperature only as a factor of the hidden states,
        and on a CPU takes many times as long for the rows of a text; for thousands of rows it needs less memory and a
        quarter less time. Liger's computes the gradient of one scalar in the forward pass, on a GPU only.
        """
        offset = 0 if vocab_slice is None else vocab_slice[0]

        def all_log_probs(rows: Tensor, divisors: Tensor, without: Tensor | None) -> Tensor:
            weight = self.weight if vocab_slice is None else self.weight[slice(*vocab_slice)]
            logits = wide_linear(rows, weight)
            if without is not None:
                logits = guide(logits, wide_linear(without, weight), guidance_scale)
            logits = logits / divisors[:, None]  # the same name, so that no third copy stays alive
            return logits.log_softmax(-1)

        def chunk_log_probs(rows: Tensor, wanted: Tensor, divisors: Tensor, *more: Tensor | None) -> Tensor:
            without, of_base, base_without = more
            log_probs = all_log_probs(rows, divisors, without)
            # No cross-entropy: it takes a target of -100, here an id 100 before the slice, for one to leave out.
            result = log_probs.gather(1, wanted[:, None])[:, 0]
            if of_base is None:
                return result
            with torch.no_grad():
                base_log_probs = all_log_probs(of_base, divisors, base_without)
            return torch.stack([result, exact_kl(log_probs, base_log_probs)], dim=1)

        given = (hidden, targets - offset, temperatures, guides, base, base_guides)
        number = max(1, -(-len(hidden) // HEAD_CHUNK_ROWS))
        chunks = zip(
            *([None] * number if tensor is None else tensor.split(HEAD_CHUNK_ROWS) for tensor in given), strict=True
        )
        if torch.is_grad_enabled() and hidden.requires_grad:
            parts = [checkpoint(chunk_log_probs, *chunk, use_reentrant=False) for chunk in chunks]
        else:
            parts = [chunk_log_probs(*chunk) for chunk in chunks]
        return torch.cat(parts)


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
        """Saves the model as transformers does, with the permissions that the umask gives to files."""
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
            input_ids: Token ids; or give ``inputs_embeds``.
            attention_mask: True on real tokens, to which all tokens attend; or which query (axis 2) attends to which
                key (axis 3). None: all attend to all, which is faster than a mask that says so.
            inputs_embeds: Embeddings that replace those of ``input_ids``.
            positions: Where to apply the head: N positions, in row-major order. None: everywhere.
            num_positions: Number of ``positions`` that are True. Giving it saves a wait for the device.
            targets: Tokens at ``positions`` whose log-probabilities are returned; then no logits are returned or
                stored.
            vocab_slice: First and one-past-last id that the head computes; the softmax is over these alone.
            is_sliced: Targets to which the slice applies; the others use the whole vocabulary. None applies it to all.
            is_guided: Targets whose logits are those of classifier-free guidance. The last ``positions`` are then
                those of the unconditional rows, one for each of these targets in their order; all use the slice.
            guidance_scale: Of these targets.
            temperature: Divisor of the logits before the softmax of ``targets``; one for all or one for each.
            base: Hidden states of another model with the same head at ``positions``, such as those of the model
                without its adapters; then the KL divergence to it is returned, too.
            without_head: Return only the hidden states at ``positions``.
            output_hidden_states: Also return the residual stream between the layers.
            cache: A new cache is filled by this pass. With a filled one, ``input_ids`` and ``positions`` are the
                columns from ``cache.first`` on, and ``attention_mask`` is still that of whole rows.

        Raises:
            ValueError: A mask of floats, or not one target per position.
        """
        hidden = self.transformer.wte(input_ids) if inputs_embeds is None else inputs_embeds
        device, first = hidden.device, 0 if cache is None else cache.first
        columns = slice(first, first + hidden.shape[1])
        mask = self._attention_mask(attention_mask, columns)
        head_dim = self.config.d_model // self.config.n_heads
        cos, sin = (part[columns] for part in rotary_table(columns.stop, head_dim, self.config.rope_theta, device))
        states = [hidden] if output_hidden_states else None
        index = None if positions is None else _flat_index(positions, num_positions)
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
            hidden = _select(hidden, index)
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


AutoConfig.register("mmada", MMadaConfig)
AutoModel.register(MMadaConfig, MMadaModelLM)
AutoModelForCausalLM.register(MMadaConfig, MMadaModelLM)
