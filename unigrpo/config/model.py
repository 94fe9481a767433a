"""The policy, its optimizer, its reference, and how DeepSpeed runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unigrpo.config.checks import choice, positive, require, within


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    lr: float = 1e-6
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moments."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay; norms are exempt."""

    def __post_init__(self) -> None:
        positive("actor.adam.lr", self.lr)
        for beta in self.betas:
            require(0 <= beta < 1, f"actor.adam.betas holds {beta}; each must lie in [0, 1)")
        require(self.weight_decay >= 0, f"actor.adam.weight_decay is {self.weight_decay}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    model_name_or_path: str = "examples/tiny/model"
    """Folder or Hub name of the policy, in the published MMaDA or LLaDA layout."""
    num_nodes: int = 1
    """Nodes of the policy group."""
    num_gpus_per_node: int = 1
    """Policy ranks on each node. On a CPU, the GPUs that Ray was told to have."""
    adam: AdamConfig = field(default_factory=AdamConfig)
    """AdamW."""
    lr_scheduler: Literal["constant_with_warmup", "cosine_with_min_lr", "linear"] = "constant_with_warmup"
    """Learning-rate schedule over all optimizer steps of the run."""
    lr_warmup_ratio: float = 0.03
    """Share of the optimizer steps that warm up."""
    min_lr_ratio: float = 0.1
    """Floor of cosine_with_min_lr, as a share of the peak."""
    max_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    eps_clip_low_high: tuple[float, float] = (0.2, 0.2)
    """The ratio is followed only within [1 - low, 1 + high]."""
    loss_agg_mode: Literal["masked_token_mean", "token_mean", "fixed_length"] = "masked_token_mean"
    """Mean over the masked tokens of a response and then over responses; over all tokens; or by a fixed length."""
    gradient_checkpointing_enable: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        positive("actor.num_nodes", self.num_nodes)
        positive("actor.num_gpus_per_node", self.num_gpus_per_node)
        choice("actor.lr_scheduler", self.lr_scheduler, ("constant_with_warmup", "cosine_with_min_lr", "linear"))
        within("actor.lr_warmup_ratio", self.lr_warmup_ratio, 0.0, 1.0)
        within("actor.min_lr_ratio", self.min_lr_ratio, 0.0, 1.0)
        require(self.max_norm >= 0, f"actor.max_norm is {self.max_norm}; use 0 to leave gradients as they are")
        low, high = self.eps_clip_low_high
        require(0 < low < 1, f"actor.eps_clip_low_high: low is {low}; it must lie in (0, 1)")
        positive("actor.eps_clip_low_high: high", high)
        choice("actor.loss_agg_mode", self.loss_agg_mode, ("masked_token_mean", "token_mean", "fixed_length"))

    @property
    def num_ranks(self) -> int:
        """Processes, each with one GPU."""
        return self.num_nodes * self.num_gpus_per_node


@dataclass(frozen=True, kw_only=True)
class RefConfig:
    offload: bool = False
    """Keep the reference's weights in CPU memory between uses."""


LAYERS = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
"""Linear layers of a block."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    rank: int = 0
    """Rank of the adapters that are trained in the place of the weights; 0 trains the weights."""
    alpha: int = 16
    """The adapters count alpha / rank."""
    target_modules: tuple[str, ...] = LAYERS
    """Layers of each block that have one."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, f"ds.lora.rank is {self.rank}; use 0 to train the weights themselves")
        positive("ds.lora.alpha", self.alpha)
        require(bool(self.target_modules), "ds.lora.target_modules is empty; name at least one layer")
        for name in self.target_modules:
            choice("ds.lora.target_modules", name, LAYERS)


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig:
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards over the ranks: 1 optimizer states, 2 also gradients, 3 also weights."""
    param_dtype: Literal["fp32", "bf16"] = "bf16"
    """Type of the weights in the forward pass; the optimizer keeps float32 masters."""
    adam_offload: bool = False
    """Optimizer states in CPU memory."""
    attn_implementation: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    """Attention kernel."""
    compile: bool = False
    """Fuse norms, rotary positions and gates by torch.compile, about a minute at the start; needs a compiler."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Low-rank adapters. The base below them is the reference, so that no second copy of the weights is kept."""

    def __post_init__(self) -> None:
        require(self.zero_stage in (0, 1, 2, 3), f"ds.zero_stage is {self.zero_stage}; choose one of [0, 1, 2, 3]")
        choice("ds.param_dtype", self.param_dtype, ("fp32", "bf16"))
        choice("ds.attn_implementation", self.attn_implementation, ("sdpa", "flash_attention_2", "eager"))
