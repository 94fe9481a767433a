"""Estimate of the time of a step, from its arithmetic and the speed of the GPUs.

A forward pass costs 2 FLOPs for each weight of the layers and token, and 4 x layers x width for each pair of tokens
that see each other; the head costs 2 x width x vocabulary where it is read, and the last layer leaves out what nobody
reads. A backward pass costs two forward passes, and recomputing activations another one.
"""

from __future__ import annotations

from dataclasses import dataclass

from unigrpo.config import ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.config.denoising import StageConfig
from unigrpo.cost.hardware import Hardware
from unigrpo.cost.memory import ModelSize

GPUS_PER_NODE = 8


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
    rows = [lengths.row] + ([lengths.response + 5] if image.guidance_scale > 0 else [])
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
    """Operations of the old policy, and of the reference if it shares the GPUs; otherwise it scores at the same
    time."""
    update: float


def unigrpo_flops(
    config: RunConfig,
    model: ModelSize,
    prompt_tokens: dict[str, int],
    num_image_tokens: int,
    shares: dict[str, float],
    codebook_size: int,
) -> StepFlops:
    """Returns the floating-point operations of one UniGRPO step.

    Args:
        config: The run.
        model: Size of the policy.
        prompt_tokens: Mean length of the prompts of each task, input images included.
        num_image_tokens: Number of tokens of a generated image.
        shares: Fraction of each task among the prompts; the fractions add up to 1.
        codebook_size: Number of image codes.
    """
    generate = score = 0.0
    for task, share in shares.items():
        samples, generated = config.num_samples_per_step * share, config.num_generated_per_step * share
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
        # Half of the response is hidden in the mean, and read.
        score += samples * config.train.num_inner_updates * sum(pass_flops(model, row, row**2, read, logits))
    passes = 4 if config.actor.gradient_checkpointing_enable else 3
    scorers = 2 if config.has_reference and not config.has_dedicated_reference_gpus else 1
    return StepFlops(generate=generate, score=scorers * score, update=passes * score)


def stage_flops(config: StageConfig, model: ModelSize, rows: dict[str, int]) -> StepFlops:
    """Returns the operations of one step of a stage, from the number of tokens of a row of each modality."""
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
    num_rollout_gpus: int = 0,
) -> dict[str, float]:
    """Returns the seconds of a step by role. `gradients` is their communication among policy ranks, and `sync` the
    weights.

    Args:
        flops: Operations of the step.
        model: Size of the policy.
        hardware: The GPUs.
        num_gpus: Number of policy GPUs.
        num_updates: Number of optimizer steps of a step.
        zero_stage: Stage of ZeRO. Under ZeRO-3 weights are communicated for every pass.
        mfu: Fraction of the GPUs' arithmetic that the passes reach.
        num_rollout_gpus: Number of GPUs of rollout workers; 0 generates on the policy's GPUs.
    """
    speed = hardware.tflops * 1e12 * mfu

    def bandwidth(gpus: int) -> float:
        return (hardware.link_gb if gpus <= GPUS_PER_NODE else hardware.network_gb) * 1e9

    moved = model.num_parameters if zero_stage == 3 else model.num_trainable
    weights = 2 * moved * (num_gpus - 1) / num_gpus
    # Gradients are reduced and scattered and weights gathered once; ZeRO-3 gathers them forward and backward.
    journeys = 3 if zero_stage == 3 else 2
    seconds = {
        "generate": flops.generate / speed / (num_rollout_gpus or num_gpus),
        "score": flops.score / speed / num_gpus,
        "update": flops.update / speed / num_gpus,
        "gradients": journeys * weights * num_updates / bandwidth(num_gpus),
    }
    if num_rollout_gpus:
        seconds["sync"] = 2 * model.num_trainable / bandwidth(num_gpus + num_rollout_gpus)
    return seconds


def whole_step(seconds: dict[str, float], max_staleness: int) -> float:
    """Returns the seconds of a step: the sum of its roles, or the longer side where generation overlaps the rest."""
    if max_staleness == 0:
        return sum(seconds.values())
    generating, sending = seconds["generate"], seconds.get("sync", 0.0)
    return sending + max(generating, sum(seconds.values()) - generating - sending)
