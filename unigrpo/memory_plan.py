"""How much memory one policy GPU of a run needs, before the run starts.

The counts are those of mixed-precision Adam under ZeRO (arXiv:1910.02054, section 3.1): 12 bytes per parameter for the
float32 master weights and the two moments, and one weight and one gradient in the type of the forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from unigrpo.config import ModelRun, RunConfig
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

OPTIMIZER_BYTES = 12
TYPE_BYTES = {"fp32": 4, "bf16": 2}
LAYER_TENSORS = 16
"""Tensors of the model's width that one layer keeps for the backward pass: norms, q, k, v, attention and its output,
residuals, and the three of the MLP at about three widths each."""
HEAD_ROWS = 1024
"""Rows whose logits exist at once, float32."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What the estimate needs to know of a model."""

    num_parameters: int
    num_layers: int
    width: int
    vocabulary_size: int

    @classmethod
    def of(cls, config: MMadaConfig) -> ModelSize:
        """The size of the model that a config describes, without building its weights."""
        with torch.device("meta"):
            model = MMadaModelLM(config)
        return cls(
            num_parameters=model.num_parameters(),
            num_layers=config.n_layers,
            width=config.d_model,
            vocabulary_size=config.embedding_size,
        )


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Gigabytes (1e9 bytes) on one policy rank."""

    gpu: dict[str, float]
    """On the GPU, by purpose."""
    cpu: dict[str, float]
    """Moved to CPU memory, by purpose."""

    @property
    def gpu_total(self) -> float:
        """All of ``gpu``."""
        return sum(self.gpu.values())


def memory_plan(config: RunConfig, model: ModelSize, longest_prompt: int, has_images: bool = False) -> MemoryPlan:
    """Estimates the memory of one policy rank, with the reference if it shares the GPU.

    Args:
        config: The run.
        model: Size of the policy.
        longest_prompt: Tokens of the longest prompt.
        has_images: Whether images are drawn.
    """
    response = max(config.rollout.text.max_new_tokens, config.rollout.image.num_image_tokens if has_images else 0)
    tokens = config.train.micro_batch_size * (longest_prompt + response)
    plan = training_memory(config, model, tokens)
    if config.algo.kl.init_coef > 0 and config.train.colocate_actor_ref:
        where = plan.cpu if config.ref.offload else plan.gpu
        where["reference"] = plan.gpu["weights"]
    return plan


def training_memory(config: ModelRun, model: ModelSize, tokens: int) -> MemoryPlan:
    """The memory of one rank that trains a model.

    Args:
        config: The run or stage.
        model: Its size.
        tokens: Of one micro-batch.
    """
    bytes_each, ranks, stage = TYPE_BYTES[config.ds.param_dtype], config.actor.num_ranks, config.ds.zero_stage
    size = model.num_parameters / 1e9
    kept_layers = 1 if config.actor.gradient_checkpointing_enable else model.num_layers
    kept = tokens * model.width * bytes_each * (LAYER_TENSORS * kept_layers + model.num_layers)
    gpu = {
        "weights": size * bytes_each / (ranks if stage == 3 else 1),
        "gradients": size * bytes_each / (ranks if stage >= 2 else 1),
        "activations": kept / 1e9,
        "logits": 3 * HEAD_ROWS * model.vocabulary_size * 4 / 1e9,
    }
    cpu: dict[str, float] = {}
    (cpu if config.ds.adam_offload else gpu)["optimizer"] = size * OPTIMIZER_BYTES / (ranks if stage >= 1 else 1)
    return MemoryPlan(gpu=gpu, cpu=cpu)
