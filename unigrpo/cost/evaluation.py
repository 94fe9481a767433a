"""Estimate of the arithmetic of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from unigrpo.config import RunConfig
from unigrpo.cost.memory import ModelSize
from unigrpo.cost.step_time import Lengths, image_flops, text_flops


def evaluation_flops(
    config: RunConfig,
    model: ModelSize,
    num_prompts: Mapping[str, float],
    prompt_tokens: Mapping[str, int],
    num_image_tokens: int,
    codebook_size: int,
) -> float:
    """Returns the floating-point operations of one evaluation with the protocol of a run. Texts have their full
    length.

    Args:
        config: Config of the run.
        model: Size of the policy.
        num_prompts: Number of held-out prompts of each task.
        prompt_tokens: Mean length of the prompts of each task, input images included.
        num_image_tokens: Number of tokens of a generated image.
        codebook_size: Number of image codes.
    """
    text, image = config.protocol.text, config.protocol.image
    total = 0.0
    for task, number in num_prompts.items():
        before, each = prompt_tokens[task], 0.0
        if task != "t2i":
            hidden_image = num_image_tokens if task == "r2i" else 0
            each += text_flops(model, Lengths(prompt=before, response=text.max_new_tokens + hidden_image), text)
            before += text.max_new_tokens
        if task in ("t2i", "r2i"):
            each += image_flops(model, Lengths(prompt=before, response=num_image_tokens), image, codebook_size)
        total += number * each
    return total * (1 + config.eval.n_samples_per_prompt)
