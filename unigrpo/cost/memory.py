"""Estimate of the memory that one policy GPU of a run needs, before the run starts.

The counts are those of mixed-precision Adam under ZeRO (arXiv:1910.02054, section 3.1): 12 bytes per parameter for the
float32 master weights and the two moments, and one weight and one gradient in the type of the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unigrpo import ConfigError
from unigrpo.config import BaseRunConfig, LoRAConfig, RunConfig
from unigrpo.cost.hardware import Hardware
from unigrpo.models.lora import add_lora
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

OPTIMIZER_BYTES = 12
TYPE_BYTES = {"fp32": 4, "bf16": 2}
LAYER_TENSORS = 16
"""Number of tensors of the model's width that one layer keeps for the backward pass: norms, q, k, v, attention and its
output, residuals, and the three of the MLP at about three widths each."""
USABLE_SHARE = 0.92
"""Usable fraction of a GPU's memory. The CUDA context, NCCL's buffers and fragmentation take the rest."""
HEAD_ROWS = 1024
"""Number of rows whose float32 logits exist at once."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of a model that the estimates need."""

    num_parameters: int
    num_layers: int
    width: int
    vocabulary_size: int
    num_trainable: int
    """Number of parameters that the optimizer has: all, or those of the LoRA adapters."""

    @property
    def layer_parameters(self) -> int:
        """Number of parameters of the layers' matrices: all but embedding, head and norms."""
        return self.num_parameters - self.width * (2 * self.vocabulary_size + 2 * self.num_layers + 1)

    @classmethod
    def of(cls, config: MMadaConfig, lora: LoRAConfig) -> ModelSize:
        """Returns the size of the model that a config describes, without building its weights."""
        with torch.device("meta"):
            model = MMadaModelLM(config)
            if lora.rank:
                add_lora(model, lora)
        return cls(
            num_parameters=model.num_parameters(),
            num_trainable=model.num_parameters(only_trainable=True),
            num_layers=config.n_layers,
            width=config.d_model,
            vocabulary_size=config.embedding_size,
        )


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory of one policy rank, in gigabytes (1e9 bytes)."""

    gpu: dict[str, float]
    """Memory on the GPU, by purpose."""
    cpu: dict[str, float]
    """Memory that is moved to the CPU, by purpose."""

    @property
    def gpu_total(self) -> float:
        """Largest memory at one time: generation and updates alternate."""
        turns = {name: self.gpu.get(name, 0.0) for name in ("activations", "logits", "sampling")}
        steady = sum(self.gpu.values()) - sum(turns.values())
        return steady + max(turns["activations"] + turns["logits"], turns["sampling"])


def memory_plan(config: RunConfig, model: ModelSize, longest_row: int) -> MemoryPlan:
    """Estimates the memory of one policy rank, with the reference if it shares the GPU.

    Args:
        config: The run.
        model: Size of the policy.
        longest_row: Number of tokens of the longest prompt and response together.
    """
    plan = training_memory(config, model, config.train.micro_batch_size * longest_row)
    # With rollout workers too: held-out prompts are answered here. The weights are there, or under ZeRO-3 a share.
    spared = 0.0 if config.ds.zero_stage == 3 else _weights_gb(config, model)
    plan.gpu["sampling"] = rollout_memory_gb(config, model, longest_row) - spared
    if config.has_reference_workers and config.train.colocate_actor_ref:
        where = plan.cpu if config.ref.offload else plan.gpu
        where["reference"] = plan.gpu["weights"]
    return plan


def rollout_memory_gb(config: RunConfig, model: ModelSize, longest_row: int) -> float:
    """Returns the gigabytes (1e9 bytes) that generation needs on a GPU, whole weights included; see
    :func:`memory_plan`."""
    # One pass without gradient: a layer's tensors, and the logits of the positions that it reads.
    tokens = config.rollout.micro_batch_size * longest_row
    once = tokens * model.width * TYPE_BYTES[config.ds.param_dtype] * LAYER_TENSORS / 1e9
    return _weights_gb(config, model) + once + _logits_gb(model)


def _weights_gb(config: BaseRunConfig, model: ModelSize) -> float:
    return model.num_parameters / 1e9 * TYPE_BYTES[config.ds.param_dtype]


def _logits_gb(model: ModelSize) -> float:
    return 3 * HEAD_ROWS * model.vocabulary_size * 4 / 1e9


def check_fits(plan: MemoryPlan, config: BaseRunConfig, hardware: Hardware) -> None:
    """Refuses a run that needs more memory than the GPU has.

    Raises:
        ValueError: The run does not fit.
    """
    room = room_gb(hardware)
    if plan.gpu_total <= room:
        return
    largest = max(plan.gpu, key=lambda name: plan.gpu[name])
    changes = [
        ("ds.zero_stage 3", config.ds.zero_stage < 3 and config.actor.num_ranks > 1),
        ("more GPUs (actor.num_nodes, actor.num_gpus_per_node)", True),
        ("ds.adam_offload true", not config.ds.adam_offload),
        ("ref.offload true", "reference" in plan.gpu and config.ds.zero_stage < 3),
        ("a smaller train.micro_batch_size", largest in ("activations", "logits")),
        ("a smaller rollout.micro_batch_size", largest == "sampling"),
        ("actor.gradient_checkpointing_enable true", not config.actor.gradient_checkpointing_enable),
    ]
    raise ConfigError(
        f"the run needs {plan.gpu_total:.1f} GB on each GPU, most of it for {largest} ({plan.gpu[largest]:.1f} GB); "
        f"{hardware.name} has {hardware.memory_gb:.0f} GB, of which {room:.0f} can be used. Choose among: "
        + ", ".join(change for change, helps in changes if helps)
    )


def check_rollouts_fit(gigabytes: float, hardware: Hardware) -> None:
    """Refuses rollout workers that need more memory than their GPU has; raises as :func:`check_fits`."""
    if gigabytes > room_gb(hardware):
        raise ConfigError(
            f"a rollout worker needs {gigabytes:.1f} GB; {hardware.name} has {hardware.memory_gb:.0f} GB, of which "
            f"{room_gb(hardware):.0f} can be used. Choose a smaller rollout.micro_batch_size"
        )


def room_gb(hardware: Hardware) -> float:
    """Returns the part of a GPU's memory that a plan may fill."""
    return USABLE_SHARE * hardware.memory_gb


def training_memory(config: BaseRunConfig, model: ModelSize, tokens: int, num_ranks: int | None = None) -> MemoryPlan:
    """Returns the memory of one rank that trains a model.

    Args:
        config: The run or stage.
        model: Its size.
        tokens: Of one micro-batch.
        num_ranks: In the place of the run's own.
    """
    bytes_each, stage = TYPE_BYTES[config.ds.param_dtype], config.ds.zero_stage
    ranks = num_ranks or config.actor.num_ranks
    trained = model.num_trainable / 1e9
    kept_layers = 1 if config.actor.gradient_checkpointing_enable else model.num_layers
    kept = tokens * model.width * bytes_each * (LAYER_TENSORS * kept_layers + model.num_layers)
    gpu = {
        "weights": _weights_gb(config, model) / (ranks if stage == 3 else 1),
        "gradients": trained * bytes_each / (ranks if stage >= 2 else 1),
        "activations": kept / 1e9,
        "logits": _logits_gb(model),
    }
    cpu: dict[str, float] = {}
    (cpu if config.ds.adam_offload else gpu)["optimizer"] = trained * OPTIMIZER_BYTES / (ranks if stage >= 1 else 1)
    return MemoryPlan(gpu=gpu, cpu=cpu)
