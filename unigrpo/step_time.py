"""How long a step takes, from the arithmetic that it does and what the GPUs can do.

A forward pass costs 2 FLOPs for each weight of the layers and token, and 4 x layers x width for each pair of tokens
that see each other; the head costs 2 x width x vocabulary where it is read. A backward pass costs two forward passes,
and recomputing activations another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from unigrpo.config import ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.hardware import Hardware
from unigrpo.memory_plan import ModelSize
from unigrpo.stage_config import StageConfig

GPUS_PER_NODE = 8


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens of a task's rows."""

    prompt: int
    response: int

    @property
    def row(self) -> int:
        """Prompt and response."""
        return self.prompt + self.response


def forward_flops(model: ModelSize, row: int, read: float, vocabulary: int | None = None) -> float:
    """Floating-point operations of one forward pass of one row.

    Args:
        model: Its size.
        row: Tokens.
        read: Tokens whose logits are computed.
        vocabulary: Columns of the head that are computed; None for all.
    """
    layers = 2 * model.layer_parameters * row + 4 * model.num_layers * model.width * row**2
    return layers + 2 * model.width * (vocabulary or model.vocabulary_size) * read


def text_flops(model: ModelSize, lengths: Lengths, text: TextSamplingConfig) -> float:
    """Of one sampled text without caches: every step sees the whole row, and reads the hidden tokens of its block."""
    guided = 2 if text.guidance_scale > 0 else 1
    return guided * text.num_denoising_steps * forward_flops(model, lengths.row, text.block_length / 2)


def image_flops(model: ModelSize, lengths: Lengths, image: ImageSamplingConfig, codebook_size: int) -> float:
    """Of one sampled image; the branch without a condition has almost no prompt."""
    read = lengths.response / 2
    passes = forward_flops(model, lengths.row, read, codebook_size)
    if image.guidance_scale > 0:
        passes += forward_flops(model, lengths.response + 5, read, codebook_size)
    return image.num_denoising_steps * passes


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """Floating-point operations of a whole step, over all GPUs."""

    generate: float
    score: float
    """By the old policy and the reference."""
    update: float


def unigrpo_flops(
    config: RunConfig, model: ModelSize, lengths: dict[str, Lengths], shares: dict[str, float], codebook_size: int
) -> StepFlops:
    """Of one UniGRPO step.

    Args:
        config: The run.
        model: Size of the policy.
        lengths: Of the rows of each task.
        shares: Of each task among the prompts, together 1.
        codebook_size: Image codes.
    """
    samples = config.num_samples_per_step
    generate = score = 0.0
    for task, share in shares.items():
        tokens, is_image = lengths[task], task == "t2i"
        once = forward_flops(model, tokens.row, tokens.response / 2, codebook_size if is_image else None)
        drawn = (
            image_flops(model, tokens, config.rollout.image, codebook_size)
            if is_image
            else text_flops(model, tokens, config.rollout.text)
        )
        generate += samples * share * drawn
        score += samples * share * once * config.train.num_inner_updates
    passes = 4 if config.actor.gradient_checkpointing_enable else 3
    scorers = 2 if config.has_reference else 1
    return StepFlops(generate=generate, score=scorers * score, update=passes * score)


def stage_flops(config: StageConfig, model: ModelSize, rows: dict[str, int]) -> StepFlops:
    """Of one step of a stage, whose rows of each modality have so many tokens."""
    passes = 4 if config.actor.gradient_checkpointing_enable else 3
    sizes = {name: modality.batch_size for name, modality in config.modalities.items()}
    total = sum(size * forward_flops(model, rows[name], rows[name] / 2) for name, size in sizes.items())
    return StepFlops(generate=0.0, score=0.0, update=passes * total)


def step_seconds(
    flops: StepFlops,
    model: ModelSize,
    hardware: Hardware,
    num_gpus: int,
    num_updates: int,
    zero_stage: int,
    mfu: float,
) -> dict[str, float]:
    """Seconds of a step by role.

    Args:
        flops: Of the step.
        model: Size of the policy.
        hardware: The GPUs.
        num_gpus: Policy GPUs.
        num_updates: Optimizer steps of a step.
        zero_stage: Under ZeRO-3 weights travel for every pass.
        mfu: Share of the GPUs' arithmetic that the passes reach.
    """
    speed = num_gpus * hardware.tflops * 1e12 * mfu
    bandwidth = (hardware.link_gb if num_gpus <= GPUS_PER_NODE else hardware.network_gb) * 1e9
    moved = model.num_parameters if zero_stage == 3 else model.num_trainable
    weights = 2 * moved * (num_gpus - 1) / num_gpus
    # Gradients are reduced and scattered and weights gathered once; ZeRO-3 gathers them forward and backward.
    journeys = 3 if zero_stage == 3 else 2
    return {
        "generate": flops.generate / speed,
        "score": flops.score / speed,
        "update": flops.update / speed,
        "sync": journeys * weights * num_updates / bandwidth,
    }
