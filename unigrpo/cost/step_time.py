"""Estimate of the time of a step, from its arithmetic and the speed of the GPUs.

A forward pass costs 2 FLOPs per token and weight of the layers, and 4 x layers x width FLOPs for each pair of tokens
that attend to each other. The head costs 2 x width x vocabulary FLOPs for each token whose logits are read. The last
layer computes its output only for these tokens. A backward pass costs as much as two forward passes, and recomputing
activations as much as one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unigrpo.config import BaseRunConfig, ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.cost.hardware import GPUS_PER_NODE, Hardware
from unigrpo.cost.memory import TYPE_BYTES, ModelSize, unconditional_row

BACKWARD_FRACTION = 2 / 3
"""Fraction of an update in which gradients are computed, so that their reduction can run at the same time."""


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Numbers of tokens of a task's rows."""

    prompt: int
    response: int

    @property
    def row(self) -> int:
        """Number of tokens of prompt and response together."""
        return self.prompt + self.response


def pass_flops(model: ModelSize, tokens: float, pairs: float, read: float, logits: float) -> tuple[float, float]:
    """Returns the floating-point operations of a forward pass, in the layers and in the head.

    The last layer computes its MLP and the output of its attention only for the tokens that are read.

    Args:
        model: Size of the model.
        tokens: Number of tokens that go through the layers.
        pairs: Number of pairs of tokens of which one attends to the other.
        read: Number of tokens at which the head is applied.
        logits: Number of logits that are computed.
    """
    matrices = model.layer_parameters * tokens - after_attention(model) * (tokens - read)
    return 2 * matrices + 4 * model.num_layers * model.width * pairs, 2 * model.width * logits


def after_attention(model: ModelSize) -> int:
    """Returns the number of weights of a layer's output of attention and its MLP."""
    return model.width * (model.width + 3 * model.mlp_width)


def forward_flops(model: ModelSize, row: int, read: float) -> float:
    """Returns the floating-point operations of a forward pass of one row, of which ``read`` tokens have logits."""
    return sum(pass_flops(model, row, row**2, read, read * model.vocabulary_size))


def text_flops(model: ModelSize, lengths: Lengths, text: TextSamplingConfig) -> float:
    """Returns the floating-point operations of one text sample of full length in the largest number of steps.

    The first step of a block computes the whole row. With a cache, the other steps leave out the tokens before the
    block, or all tokens around it.
    """
    num_blocks = text.max_new_tokens // text.block_length
    steps = max(1, text.num_denoising_steps // num_blocks)
    fixed = text.block_length / steps
    row, read = lengths.row, fixed if text.remasking == "random" else (text.block_length + fixed) / 2
    total = 0.0
    for start in range(lengths.prompt, lengths.prompt + text.max_new_tokens, text.block_length):
        seen = {"none": row, "prefix": row - start, "dual": text.block_length}[text.cache]
        for columns in (row, *[seen] * (steps - 1)):
            total += sum(pass_flops(model, columns, columns * row, read, read * model.vocabulary_size))
    return (2 if text.guidance_scale > 0 else 1) * total


def image_flops(model: ModelSize, lengths: Lengths, image: ImageSamplingConfig, codebook_size: int) -> float:
    """Returns the floating-point operations of one image sample.

    The unconditional pass of guidance has almost no prompt, and a cache leaves out the prompt.
    """
    rows = [lengths.row] + ([unconditional_row(lengths.response)] if image.guidance_scale > 0 else [])
    read, total = lengths.response / 2, 0.0
    for row in rows:
        seen = lengths.response + 1 if image.cache == "text" else row
        for columns in (row, *[seen] * (image.num_denoising_steps - 1)):
            total += sum(pass_flops(model, columns, columns * row, read, read * codebook_size))
    return total


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """Floating-point operations of a whole step, over all GPUs."""

    generate: float
    score: float
    """Operations of scoring by the old policy, and by the reference if it shares the GPUs. A reference on other GPUs
    scores at the same time."""
    update: float


def unigrpo_flops(
    config: RunConfig,
    model: ModelSize,
    prompt_tokens: dict[str, int],
    num_image_tokens: int,
    fractions: dict[str, float],
    codebook_size: int,
) -> StepFlops:
    """Returns the floating-point operations of one UniGRPO step.

    Args:
        config: Config of the run.
        model: Size of the policy.
        prompt_tokens: Mean length of the prompts of each task, input images included.
        num_image_tokens: Number of tokens of a generated image.
        fractions: Fraction of each task among the prompts; the fractions add up to 1.
        codebook_size: Number of image codes.
    """
    generate = score = of_base = 0.0
    is_exact = config.algo.kl.estimator == "exact"
    for task, fraction in fractions.items():
        samples, generated = config.num_samples_per_step * fraction, config.num_generated_per_step * fraction
        row, read, logits = prompt_tokens[task], 0.0, 0.0
        if task != "t2i":
            text = Lengths(prompt=row, response=config.rollout.text.max_new_tokens)
            hidden_image = num_image_tokens if task == "r2i" else 0
            seen = Lengths(prompt=row, response=text.response + hidden_image)
            generate += generated * text_flops(model, seen, config.rollout.text)
            row, read, logits = text.row, text.response / 2, text.response / 2 * model.vocabulary_size
        if task in ("t2i", "r2i"):
            image = Lengths(prompt=row, response=num_image_tokens)
            generate += generated * image_flops(model, image, config.rollout.image, codebook_size)
            row, read = image.row, read + image.response / 2
            logits += image.response / 2 * codebook_size
        # Half of the response is masked in the mean, and read.
        rows = [(row, read, logits)]
        if task in ("t2i", "r2i") and config.scores_guided:
            read = num_image_tokens / 2
            rows.append((unconditional_row(num_image_tokens), read, read * codebook_size))
        for tokens, read, logits in rows:
            layers, head = pass_flops(model, tokens, tokens**2, read, logits)
            score += samples * config.train.num_inner_updates * (layers + head)
            if is_exact and config.kl_coef(task) > 0:  # the head computes the logits of the base again, as its own
                of_base += samples * config.train.num_inner_updates * (layers + 2 * head)
    passes = 4 if config.actor.gradient_checkpointing_enable else 3
    has_reference_pass = config.has_reference and not is_exact and not config.has_dedicated_reference_gpus
    return StepFlops(
        generate=generate, score=(2 if has_reference_pass else 1) * score, update=passes * score + of_base
    )


def stage_flops(config: StageConfig, model: ModelSize, rows: dict[str, int]) -> StepFlops:
    """Returns the operations of one step of a stage, from the number of tokens of a row of each modality."""
    passes = 4 if config.actor.gradient_checkpointing_enable else 3
    sizes = {name: modality.batch_size for name, modality in config.modalities.items()}
    total = sum(size * forward_flops(model, rows[name], rows[name] / 2) for name, size in sizes.items())
    return StepFlops(generate=0.0, score=0.0, update=passes * total)


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes that every rank contributes to the collective operations of one optimizer step."""

    reduced: float = 0.0
    """Gradients that are summed over the ranks, so that every rank gets the whole sum."""
    scattered: float = 0.0
    """Gradients that are summed over the ranks, so that every rank gets its part of the sum."""
    gathered: float
    """Weights that are gathered from the parts of the ranks."""

    def seconds(self, hardware: Hardware, num_gpus: int, backward_seconds: float = 0.0) -> float:
        """Returns the communication time on a ring that does not overlap a backward pass.

        An all-reduce passes over the ring twice, and a reduce-scatter or an all-gather once.

        Args:
            hardware: The GPUs and their links.
            num_gpus: Number of ranks.
            backward_seconds: Time in which gradients are reduced while other gradients are computed.
        """
        speed = hardware.ring_gb(num_gpus) * 1e9 * num_gpus / max(num_gpus - 1, 1e-9)
        sums = (2 * self.reduced + self.scattered) / speed
        return max(0.0, sums - backward_seconds) + self.gathered / speed


def update_traffic(config: BaseRunConfig, model: ModelSize, num_passes: int) -> Traffic:
    """Returns the communication of one optimizer step of this many forward and backward passes on each rank.

    DeepSpeed's ZeRO-1 sums the gradients once, and ZeRO-2 and 3 after every pass, because they keep only the rank's
    own part. The weights are gathered once. ZeRO-3 gathers them for every forward and backward pass, and again
    where activations are recomputed. Gradients are sent in the type of their sum.
    """
    stage, bytes_each = config.ds.zero_stage, TYPE_BYTES[config.ds.param_dtype]
    gradients = model.num_trainable * TYPE_BYTES[config.ds.grad_accum_dtype]
    weights, trained = model.num_parameters * bytes_each, model.num_trainable * bytes_each
    if stage == 3:
        gatherings = (3 if config.actor.gradient_checkpointing_enable else 2) * num_passes
        return Traffic(scattered=num_passes * gradients, gathered=gatherings * weights)
    sums = num_passes if stage == 2 else 1
    return Traffic(reduced=sums * gradients, gathered=trained if stage > 0 else 0.0)


def step_seconds(
    flops: StepFlops,
    config: BaseRunConfig,
    model: ModelSize,
    hardware: Hardware,
    num_gpus: int,
    *,
    mfu: float,
    num_updates: int = 1,
    num_passes: int = 1,
    num_rollout_gpus: int = 0,
) -> dict[str, float]:
    """Returns the seconds of a step by role. `gradients` is the communication of gradients among policy ranks, and
    `sync` that of weights to rollout workers.

    Args:
        flops: Operations of the step.
        config: The run or stage.
        model: Size of the policy.
        hardware: The GPUs.
        num_gpus: Number of policy GPUs.
        mfu: Fraction of the GPUs' arithmetic that the passes reach.
        num_updates: Number of optimizer steps in one step of the run.
        num_passes: Number of forward and backward passes of each rank in an optimizer step.
        num_rollout_gpus: Number of GPUs of rollout workers; 0 generates on the policy's GPUs.
    """
    speed = hardware.tflops * 1e12 * mfu
    traffic = update_traffic(config, model, num_passes)
    update = flops.update / speed / num_gpus
    hidden = BACKWARD_FRACTION * update / num_updates if config.ds.overlaps_reduction else 0.0
    seconds = {
        "generate": flops.generate / speed / (num_rollout_gpus or num_gpus),
        "score": flops.score / speed / num_gpus,
        "update": update,
        "gradients": num_updates * traffic.seconds(hardware, num_gpus, hidden),
    }
    if num_rollout_gpus:  # from one GPU over one card, or over the links of a node
        is_one_node = num_gpus + num_rollout_gpus <= GPUS_PER_NODE
        sending = hardware.link_gb if is_one_node else hardware.nic_gb
        seconds["sync"] = TYPE_BYTES[config.ds.param_dtype] * model.num_trainable / (sending * 1e9)
    return seconds


def unigrpo_passes(config: RunConfig, num_gpus: int, mean_row: float) -> int:
    """Returns the number of passes of each rank in an inner update with one view of each sample.

    Args:
        config: The run.
        num_gpus: Number of policy GPUs.
        mean_row: Mean number of tokens of a row.
    """
    rows, room = config.num_samples_per_step / num_gpus, config.train.micro_batch_tokens
    return math.ceil(rows * mean_row / room if room else rows / config.train.micro_batch_size)


def stage_passes(config: StageConfig, num_gpus: int) -> int:
    """Returns the number of passes of each rank in a step of pretraining or Mix-CoT."""
    sizes = [modality.batch_size for modality in config.modalities.values()]
    return sum(math.ceil(size / num_gpus / config.train.micro_batch_size) for size in sizes)


def whole_step(seconds: dict[str, float], max_staleness: int) -> float:
    """Returns the seconds of a step: the sum of its roles, or the longer side where generation overlaps the rest."""
    if max_staleness == 0:
        return sum(seconds.values())
    generating, sending = seconds["generate"], seconds.get("sync", 0.0)
    return sending + max(generating, sum(seconds.values()) - generating - sending)
