"""Estimate of the time that rewards with a model need for the samples of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unigrpo.config import RewardTermConfig
from unigrpo.cost.hardware import Hardware

SAMPLE_FLOPS = {
    "clip_score": 1.7e11,
    "aesthetic": 1.7e11,
    "image_reward": 1.4e11,
    "pick_score": 3.4e11,
    "hpsv2": 3.4e11,
}
"""Floating-point operations of one sample with the published weights: twice the weights of the image encoder times its
tokens, and the text. ViT-L/14 has 304M weights and 257 tokens, BLIP's ViT-L/16 197 tokens, CLIP-H 632M weights."""
CPU_FLOPS = 7.5e10
"""Operations per second of one CPU core: ViT-L/14 took 2.3 s for an image on an AMD EPYC."""
RESIDENT_GB = {"clip_score": 1.7, "aesthetic": 1.7, "image_reward": 1.8, "pick_score": 3.9, "hpsv2": 3.9}
"""Weights of the published models in float32."""
PROCESS_GB = 1.0
"""Memory that a process needs on a GPU besides its weights: the CUDA context and the activations of a batch of
images."""
STEP_SECONDS = 30.0
"""Time in which a reward should score a step if the number of its processes is chosen automatically."""


@dataclass(frozen=True, kw_only=True)
class RewardTime:
    """The time that one reward needs for a step."""

    samples: float
    seconds_per_sample: float
    """Time of one sample in one process."""
    num_processes: int

    @property
    def seconds(self) -> float:
        """Time of all samples of a step, in seconds."""
        return self.samples * self.seconds_per_sample / self.num_processes


def gpu_memory_gb(terms: Sequence[RewardTermConfig]) -> float:
    """Returns the memory that the rewards with ``on_policy_gpus`` need on each GPU of the policy."""
    return sum(RESIDENT_GB.get(term.name, 0.0) + PROCESS_GB for term in terms if term.on_policy_gpus)


def reward_time(
    term: RewardTermConfig, samples: float, hardware: Hardware, mfu: float, num_policy_gpus: int
) -> RewardTime | None:
    """Returns the estimate for one reward; None for a reward without a known model, whose time is short or unknown.

    Args:
        term: The reward.
        samples: Number of samples of a step that it scores.
        hardware: The GPUs.
        mfu: Fraction of a GPU's peak arithmetic that passes reach.
        num_policy_gpus: Number of GPUs of the policy.
    """
    flops = SAMPLE_FLOPS.get(term.name)
    if flops is None:
        return None
    uses_gpu = term.on_policy_gpus or term.num_gpus > 0
    seconds = flops / (hardware.tflops * 1e12 * mfu if uses_gpu else CPU_FLOPS)
    processes = num_policy_gpus if term.on_policy_gpus else term.min_workers
    if not uses_gpu and not term.num_workers:
        processes = max(1, math.ceil(seconds * samples / STEP_SECONDS))
    return RewardTime(samples=samples, seconds_per_sample=seconds, num_processes=processes)
