"""Compares text rollouts with those of the plain sampler, which are equal without a cache, and measures the caches.

python tests/benchmarks/text_rollout.py [--size 8b]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import plain
import torch
from measure import computing_clock, gpu_peak_gb, interleaved, row, write
from sizes import Size, chosen_size
from torch import Tensor

from unigrpo.config import TextSamplingConfig
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.sampling.text import sample_text
from unigrpo.records import Trajectory

THRESHOLD = 0.9
LOGIT_SPREAD = 80.0
"""Standard deviation of the logits of a confident model, with which a pass fixes 2.4 tokens of a row by the threshold.
The tiny Mix-CoT model fixes 2.9."""
NUM_BATCHED = 64
"""Number of rows of the batch whose throughput is measured on a GPU."""


def main() -> None:
    size = chosen_size(__doc__ or "")
    model = size.build()
    sure = sharpened(model, size)
    prompts = size.text_tokens(size.text_prompts)
    exact = replace(size.text, stop_at_end_of_text=False)
    fast = replace(exact, cache="dual", threshold=THRESHOLD)

    def ours(settings: TextSamplingConfig) -> list[Trajectory]:
        chosen = sure if settings.threshold > 0 else model
        return sample_text(chosen, prompts, settings, size.vocabulary, generators=size.generators(len(prompts)))

    seconds = interleaved(
        {
            "plain": lambda: plain.sample_text(model, prompts, exact, size.vocabulary),
            "none": lambda: ours(exact),
            "prefix": lambda: ours(replace(exact, cache="prefix")),
            "dual": lambda: ours(replace(exact, cache="dual")),
            "dual and threshold": lambda: ours(fast),
        },
        size.rounds,
        computing_clock,
    )
    on_gpu = size.device.type == "cuda"
    targets = {"none": 1.3 if on_gpu else 1.5, "dual and threshold": 8.0 if on_gpu else 4.0}
    same = equality(model, size, exact, ours(exact))
    rows = [
        row(
            f"text rollout, cache {name}",
            seconds["plain"],
            seconds[name],
            "s",
            targets.get(name),
            same if name == "none" else "",
        )
        for name in ("none", "prefix", "dual", "dual and threshold")
    ]
    num_tokens = len(prompts) * exact.max_new_tokens
    passes = [len(one.commit_step.unique()) - 1 for one in ours(fast)]
    more = {
        "size": size.name,
        "prompt_tokens": size.text_prompts,
        "settings": {k: getattr(exact, k) for k in ("max_new_tokens", "num_denoising_steps", "block_length")},
        "tokens_per_second": {name: round(num_tokens / s, 1) for name, s in seconds.items()},
        "tokens_per_pass_with_threshold": round(exact.max_new_tokens * len(passes) / sum(passes), 2),
        "gpu_peak_gb": {
            "plain": gpu_peak_gb(lambda: plain.sample_text(model, prompts, exact, size.vocabulary)),
            "none": gpu_peak_gb(lambda: ours(exact)),
        },
    }
    if on_gpu:
        more["batched"] = batched(sure, size, fast)
    write("text_rollout", rows, **more)


def sharpened(model: MMadaModelLM, size: Size) -> MMadaModelLM:
    """Returns the model with a scaled head, so that tokens reach the threshold as often as with trained weights.

    Confidences near 1 are equal in float32, so the comparison of tokens uses the original head.
    """
    spread = model.config.init_std * model.config.d_model**0.5
    sure = size.build()
    sure.load_state_dict(model.state_dict(), assign=True)
    head = sure.transformer.ff_out
    head.weight = torch.nn.Parameter(head.weight.detach() * (LOGIT_SPREAD / spread))
    return sure


def equality(model: MMadaModelLM, size: Size, settings: TextSamplingConfig, samples: Sequence[Trajectory]) -> str:
    """Compares our samples with those that the plain sampler generates from the same random numbers."""
    noise = shared_noise(size, settings)
    tokens, log_probs = plain.sample_text(model, size.text_tokens(size.text_prompts), settings, size.vocabulary, noise)
    found = torch.stack([one.token_ids[one.response_mask] for one in samples])
    gap = (torch.stack([one.commit_log_probs[one.response_mask] for one in samples]) - log_probs.cpu()).abs().max()
    share = (found == tokens.cpu()).float().mean().item()
    if size.dtype == torch.float32 and (share < 1 or gap > 1e-3):
        raise AssertionError(f"{share:.1%} of the tokens are equal, log-probabilities differ by {gap}")
    return f"{share:.1%} of tokens, log-probabilities within {gap:.0e}"


def shared_noise(size: Size, settings: TextSamplingConfig) -> plain.Noise:
    """Returns the random numbers of our sampler at the masked positions of the first unfinished block."""
    first, generators = max(size.text_prompts), size.generators(len(size.text_prompts))

    def noise(masked: Tensor, num_ids: int) -> Tensor:
        result = torch.ones(*masked.shape, num_ids, dtype=torch.float64, device=masked.device)
        blocks = masked[:, first:].unflatten(1, (-1, settings.block_length))
        block = int(blocks.any(dim=2).any(dim=0).nonzero()[0])
        start = first + block * settings.block_length
        for index, generator in enumerate(generators):
            places = start + blocks[index, block].nonzero()[:, 0]
            draws = torch.empty(len(places), num_ids, device=generator.device).exponential_(generator=generator)
            result[index, places] = draws.double()
        return result

    return noise


def batched(model: MMadaModelLM, size: Size, settings: TextSamplingConfig) -> dict[str, float]:
    """Returns the tokens per second of a large batch, by settings."""
    prompts = size.text_tokens([128] * NUM_BATCHED)
    rates = {}
    for name, chosen in (("dual", replace(settings, threshold=0.0)), ("dual and threshold", settings)):

        def call(chosen: TextSamplingConfig = chosen) -> None:
            sample_text(model, prompts, chosen, size.vocabulary, generators=size.generators(NUM_BATCHED))

        seconds = interleaved({name: call}, 1, computing_clock)[name]
        rates[name] = round(NUM_BATCHED * settings.max_new_tokens / seconds, 1)
    return rates


if __name__ == "__main__":
    main()
