"""Settings of the policy, its optimizer, its reference, and DeepSpeed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from unigrpo.config.checks import choice, positive, require, within
from unigrpo.config.paths import InputPath

LRSchedule = Literal["constant_with_warmup", "cosine_with_min_lr", "linear"]
LossAggregation = Literal["masked_token_mean", "token_mean", "fixed_length"]
Precision = Literal["fp32", "bf16"]
Attention = Literal["sdpa", "varlen", "flash_attention_2", "eager"]


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    lr: float = 1e-6
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moments."""
    eps: float = 1e-8
    """Number added to the square root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay. Norm weights are exempt."""

    def __post_init__(self) -> None:
        positive("actor.adam.lr", self.lr)
        for beta in self.betas:
            require(0 <= beta < 1, f"actor.adam.betas holds {beta}; each must lie in [0, 1)")
        require(self.weight_decay >= 0, f"actor.adam.weight_decay is {self.weight_decay}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    model_name_or_path: InputPath = "examples/tiny/model"
    """Folder or Hub name of the policy, in the published MMaDA or LLaDA format."""
    num_nodes: int = 1
    """Number of nodes of the policy."""
    num_gpus_per_node: int = 1
    """Number of policy ranks on each node, one per GPU. On a machine without GPUs, Ray counts CPU processes as
    GPUs."""
    adam: AdamConfig = field(default_factory=AdamConfig)
    """AdamW optimizer."""
    lr_scheduler: LRSchedule = "constant_with_warmup"
    """Learning-rate schedule over all optimizer steps of the run."""
    lr_warmup_ratio: float = 0.03
    """Fraction of the optimizer steps in which the learning rate warms up. With W such steps, the rate rises from 1/(W
    + 1) to W/(W + 1) of the peak."""
    min_lr_ratio: float = 0.1
    """Final learning rate of cosine_with_min_lr, as a fraction of the peak."""
    max_norm: float = 1.0
    """Largest gradient norm; gradients above it are scaled down. 0 does not clip gradients."""
    eps_clip_low_high: tuple[float, float] = (0.2, 0.2)
    """Clip bounds of the probability ratio: it is clipped to [1 - low, 1 + high]."""
    loss_agg_mode: LossAggregation = "masked_token_mean"
    """How token losses become one loss: `masked_token_mean` is the mean over the masked tokens of a response and then
    over responses, `token_mean` the mean over all tokens, and `fixed_length` the sum divided by a fixed length."""
    gradient_checkpointing_enable: bool = False
    """Recompute activations in the backward pass, which saves memory and takes about a third more time."""

    def __post_init__(self) -> None:
        positive("actor.num_nodes", self.num_nodes)
        positive("actor.num_gpus_per_node", self.num_gpus_per_node)
        choice("actor.lr_scheduler", self.lr_scheduler, get_args(LRSchedule))
        within("actor.lr_warmup_ratio", self.lr_warmup_ratio, 0.0, 1.0)
        within("actor.min_lr_ratio", self.min_lr_ratio, 0.0, 1.0)
        require(self.max_norm >= 0, f"actor.max_norm is {self.max_norm}; use 0 to leave gradients as they are")
        low, high = self.eps_clip_low_high
        require(0 < low < 1, f"actor.eps_clip_low_high: low is {low}; it must lie in (0, 1)")
        positive("actor.eps_clip_low_high: high", high)
        choice("actor.loss_agg_mode", self.loss_agg_mode, get_args(LossAggregation))

    @property
    def num_ranks(self) -> int:
        """Number of policy processes, each with one GPU."""
        return self.num_nodes * self.num_gpus_per_node


@dataclass(frozen=True, kw_only=True)
class RefConfig:
    offload: bool = False
    """Keep the weights of the reference in CPU memory while they are not used."""


LAYERS = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
"""Linear layers of a transformer block."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    rank: int = 0
    """Rank of the LoRA adapters. With 0 there are no adapters and all weights are trained."""
    alpha: int = 16
    """The output of the adapters is multiplied by alpha / rank."""
    target_modules: tuple[str, ...] = LAYERS
    """Linear layers of each block that get an adapter."""

    def __post_init__(self) -> None:
        require(self.rank >= 0, f"ds.lora.rank is {self.rank}; use 0 to train the weights themselves")
        positive("ds.lora.alpha", self.alpha)
        require(bool(self.target_modules), "ds.lora.target_modules is empty; name at least one layer")
        for name in self.target_modules:
            choice("ds.lora.target_modules", name, LAYERS)


@dataclass(frozen=True, kw_only=True)
class DeepSpeedConfig:
    zero_stage: Literal[0, 1, 2, 3] = 2
    """What DeepSpeed shards over the ranks: 1 shards optimizer states, 2 also gradients, 3 also weights."""
    param_dtype: Precision = "bf16"
    """Data type of the weights in the forward pass. The optimizer keeps float32 copies."""
    grad_accum_dtype: Precision = "fp32"
    """Data type in which the gradients of passes and ranks are added up. `bf16` needs less memory and communication,
    but rounds after every pass, which causes an error of about 1% after 64 passes."""
    overlap_comm: bool = True
    """Reduce gradients during the backward pass, with a second buffer of 1 GB. Only ds.zero_stage 2 uses this setting,
    because it reduces after every pass; ds.zero_stage 1 reduces once in an optimizer step."""
    adam_offload: bool = False
    """Keep optimizer states in CPU memory."""
    attn_implementation: Attention = "sdpa"
    """Attention implementation of the model. `varlen` leaves padding out of passes without a cache, which saves time
    if the rows of a pass differ in length; on GPUs it needs ds.param_dtype bf16."""
    compile: bool = False
    """Fuse norms, rotary positions and gates with torch.compile. The run starts about a minute later, and a C or C++
    compiler must be installed."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """LoRA adapters. The base model is the reference, so that no second copy of the weights is needed."""

    @property
    def overlaps_reduction(self) -> bool:
        """Whether gradients are reduced during the backward pass."""
        return self.overlap_comm and self.zero_stage == 2

    def __post_init__(self) -> None:
        require(self.zero_stage in (0, 1, 2, 3), f"ds.zero_stage is {self.zero_stage}; choose one of [0, 1, 2, 3]")
        choice("ds.param_dtype", self.param_dtype, get_args(Precision))
        choice("ds.grad_accum_dtype", self.grad_accum_dtype, get_args(Precision))
        if self.param_dtype == "fp32":
            require(
                self.grad_accum_dtype == "fp32",
                "ds.grad_accum_dtype is bf16, but the gradients of ds.param_dtype fp32 are float32; use fp32",
            )
        elif self.grad_accum_dtype == "fp32":
            require(
                self.zero_stage != 1,
                "ds.grad_accum_dtype is fp32, which DeepSpeed's ds.zero_stage 1 cannot do with ds.param_dtype bf16; "
                "use ds.zero_stage 2, or ds.grad_accum_dtype bf16",
            )
            require(
                not (self.zero_stage == 2 and self.adam_offload),
                "ds.grad_accum_dtype is fp32, which DeepSpeed's ds.zero_stage 2 cannot do with ds.adam_offload; use "
                "ds.zero_stage 3, or ds.grad_accum_dtype bf16",
            )
        choice("ds.attn_implementation", self.attn_implementation, get_args(Attention))
