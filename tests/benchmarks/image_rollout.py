"""Compares image rollouts with those of the plain sampler: short prompts, guidance, and equal codes.

python tests/benchmarks/image_rollout.py [--size 8b]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import plain
import torch
from measure import computing_clock, gpu_peak_gb, interleaved, row, write
from sizes import Size, chosen_size
from torch import Tensor

from unigrpo.config import ImageSamplingConfig
from unigrpo.models.sampling.image import sample_images
from unigrpo.records import Trajectory


def main() -> None:
    size = chosen_size(__doc__ or "")
    model, vocabulary = size.build(), size.vocabulary
    prompts, empty = size.image_tokens(size.image_prompts), size.empty_image_tokens()

    def ours(settings: ImageSamplingConfig = size.image) -> list[Trajectory]:
        generators, guides = size.generators(len(prompts)), [empty] * len(prompts)
        return sample_images(model, prompts, settings, vocabulary, generators=generators, unconditional=guides)

    def plainly(*noise: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        return plain.sample_images(model, prompts, empty, size.image, vocabulary, size.max_text_tokens, *noise)

    seconds = interleaved(
        {"plain": plainly, "none": ours, "text": lambda: ours(replace(size.image, cache="text"))},
        size.rounds,
        computing_clock,
    )
    tokens, log_probs = plainly(*shared_noise(size))
    target = 1.4 if size.device.type == "cuda" else 1.3
    rows = [
        row(
            "image rollout, 15 steps, guidance 3.5",
            seconds["plain"],
            seconds["none"],
            "s",
            target,
            equality(size, ours(), tokens.cpu(), log_probs.cpu()),
        ),
        row("image rollout, cache text", seconds["plain"], seconds["text"], "s"),
    ]
    write(
        "image_rollout",
        rows,
        size=size.name,
        prompt_tokens=size.image_prompts,
        padded_to=size.max_text_tokens,
        image_tokens=size.image.num_image_tokens,
        seconds_per_image={name: round(s / len(prompts), 3) for name, s in seconds.items()},
        gpu_peak_gb={"plain": gpu_peak_gb(plainly), "none": gpu_peak_gb(ours)},
    )


def equality(size: Size, samples: list[Trajectory], tokens: Tensor, log_probs: Tensor) -> str:
    """Compares the images of our sampler with those that the plain sampler generates from the same random numbers."""
    found = torch.stack([one.token_ids[one.image_mask] for one in samples])
    kept = torch.stack([one.commit_log_probs[one.response_mask] for one in samples])
    share, gap = (found == tokens).float().mean().item(), (kept - log_probs).abs().max().item()
    if size.dtype == torch.float32 and (share < 1 or gap > 1e-3):
        raise AssertionError(f"{share:.1%} of the codes are equal, log-probabilities differ by {gap}")
    return f"{share:.1%} of codes, log-probabilities within {gap:.0e}"


def shared_noise(size: Size) -> tuple[plain.Noise, Callable[[Tensor], Tensor]]:
    """Returns the random numbers of our sampler at the masked positions: for the codes, and for the remasking."""
    generators = size.generators(len(size.image_prompts))

    def noise(masked: Tensor, num_ids: int) -> Tensor:
        result = torch.ones(*masked.shape, num_ids, device=masked.device)
        for index, generator in enumerate(generators):
            shape = (int(masked[index].sum()), num_ids)
            result[index, masked[index]] = torch.empty(shape, device=generator.device).exponential_(
                generator=generator
            )
        return result

    def uniform(masked: Tensor) -> Tensor:
        result = torch.zeros(masked.shape, device=masked.device)
        for index, generator in enumerate(generators):
            count = int(masked[index].sum())
            result[index, masked[index]] = torch.rand(count, generator=generator, device=generator.device)
        return result

    return noise, uniform


if __name__ == "__main__":
    main()
