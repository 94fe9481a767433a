"""Settings of sampling."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, get_args

from unigrpo.config.checks import choice, positive, require, within

Remasking = Literal["low_confidence", "random"]
TextCache = Literal["none", "prefix", "dual"]
ImageCache = Literal["none", "text"]
Annealing = Literal["linear", "compounding"]


@dataclass(frozen=True, kw_only=True)
class TextSamplingConfig:
    max_new_tokens: int = 256
    """Number of tokens of every response. Tokens after the first end-of-text are padding."""
    num_denoising_steps: int = 128
    """Number of forward passes for one response. It must be a multiple of the number of blocks."""
    block_length: int = 32
    """Number of tokens of one block, which must divide max_new_tokens. Blocks are generated from left to right."""
    temperature: float = 1.0
    """Divisor of the logits in sampling and in scoring; 0 chooses the most likely token."""
    top_p: float = 1.0
    """Sample only from the smallest set of tokens that has this total probability; 1 samples from all tokens."""
    remasking: Remasking = "low_confidence"
    """Which sampled tokens are kept in a step: the most confident ones (`low_confidence`) or random ones
    (`random`)."""
    guidance_scale: float = 0.0
    """Scale of classifier-free guidance against the masked prompt; 0 switches it off."""
    threshold: float = 0.0
    """If above 0, every step keeps all tokens with at least this confidence, and at least one token. This replaces
    num_denoising_steps."""
    cache: TextCache = "none"
    """Keys and values that the first pass of a block computes and its other passes reuse: `none`, those of the tokens
    before the block (`prefix`), or those of the tokens before and after it (`dual`). A cache makes generation faster
    and changes the distribution of the samples slightly."""
    stop_at_end_of_text: bool = True
    """Do not generate the blocks after the one that contains end-of-text; they become padding."""

    def __post_init__(self) -> None:
        positive("block_length", self.block_length)
        positive("num_denoising_steps", self.num_denoising_steps)
        require(
            self.block_length <= self.max_new_tokens,
            f"block_length is {self.block_length}, longer than max_new_tokens {self.max_new_tokens}",
        )
        require(
            self.max_new_tokens % self.block_length == 0,
            f"max_new_tokens {self.max_new_tokens} is not a multiple of block_length {self.block_length}",
        )
        blocks = self.max_new_tokens // self.block_length
        require(
            self.num_denoising_steps % blocks == 0,
            f"num_denoising_steps {self.num_denoising_steps} is not a multiple of the {blocks} blocks of the response",
        )
        require(self.temperature >= 0, f"temperature is {self.temperature}; it must be 0 or more")
        require(0 < self.top_p <= 1, f"top_p is {self.top_p}; it must lie in (0, 1]")
        choice("remasking", self.remasking, get_args(Remasking))
        choice("cache", self.cache, get_args(TextCache))
        require(self.guidance_scale >= 0, f"guidance_scale is {self.guidance_scale}; it must be 0 or more")
        within("threshold", self.threshold, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ImageSamplingConfig:
    """Sampling of images."""

    num_image_tokens: int = 1024
    """Number of codes of one image. With the published image tokenizer it is (height in pixels / 16) squared: 1024 for
    512 pixels."""
    num_denoising_steps: int = 15
    """Number of forward passes for one image. Each pass keeps the most confident codes and masks the others again."""
    schedule: str = "cosine"
    """Schedule of the fraction of codes that is masked after each step: `cosine`, `linear`, `sigmoid`, or `pow` with
    an exponent such as `pow2` or `pow0.5`."""
    temperature: float = 1.0
    """Divisor of the logits in sampling and in scoring; 0 chooses the most likely code."""
    remasking_temperature: float = 1.0
    """Scale of the Gumbel noise that is added to the log-probabilities to decide which codes are kept. This is the
    scale in the first step; it is annealed to 0."""
    remasking_anneal: Annealing = "linear"
    """How the noise is annealed: `linear`, or `compounding`, which multiplies the linear factors of all steps so far,
    as the released code does."""
    guidance_scale: float = 3.5
    """Scale of classifier-free guidance against an unconditional prompt; 0 switches it off."""
    score_guided: bool = False
    """Whether UniGRPO scores images by the guided distribution from which they were sampled, with two passes for each
    view. Otherwise it scores them without guidance, and clipping and KL limit only the change of the unguided
    distribution; the guided one may change many times as much. Only UniGRPO training uses this setting."""
    cache: ImageCache = "none"
    """Cache of the prompt's keys and values: `text` computes them in the first step, when all codes are masked, and
    reuses them in all later steps; `none` computes them in every step."""

    def __post_init__(self) -> None:
        positive("num_image_tokens", self.num_image_tokens)
        positive("num_denoising_steps", self.num_denoising_steps)
        require(
            re.fullmatch(r"cosine|linear|sigmoid|pow(?=.*[1-9])\d*\.?\d+", self.schedule) is not None,
            f"schedule: no {self.schedule!r}; choose `cosine`, `linear`, `sigmoid` or `pow` with an exponent, as pow2",
        )
        for name in ("temperature", "remasking_temperature", "guidance_scale"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
        choice("cache", self.cache, get_args(ImageCache))
        choice("remasking_anneal", self.remasking_anneal, get_args(Annealing))


def check_text_steps(section: str, text: TextSamplingConfig) -> None:
    """Raises ConfigError for more denoising steps than a response has tokens, since each step should fix a token.

    The sampler itself accepts any number, as the released code does, and leaves out the steps that fix nothing.
    """
    require(
        text.num_denoising_steps <= text.max_new_tokens,
        f"{section}num_denoising_steps is {text.num_denoising_steps}, but a response has only {text.max_new_tokens} "
        f"tokens (max_new_tokens); use at most {text.max_new_tokens}",
    )


def check_image_steps(section: str, image: ImageSamplingConfig, num_codes: int | None = None) -> None:
    """Raises ConfigError for more denoising steps than an image has codes; see :func:`check_text_steps`.

    Args:
        section: Name of the section in the config with its dot, for the message.
        image: The settings.
        num_codes: Number of codes of an image; if None, it is ``image.num_image_tokens``.
    """
    codes = image.num_image_tokens if num_codes is None else num_codes
    require(
        image.num_denoising_steps <= codes,
        f"{section}num_denoising_steps is {image.num_denoising_steps}, but an image has only {codes} codes; "
        f"use at most {codes}",
    )


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    batch_size: int = 16
    """Number of prompts of one step."""
    n_samples_per_prompt: int = 8
    """Number of responses per prompt. They form the group whose rewards are compared."""
    oversample: float = 1.0
    """Number of prompts that are sampled for each prompt of batch_size, at least 1. A step samples ceil(batch_size x
    oversample) prompts and trains on the first batch_size groups that algo.group_filter keeps. If it keeps fewer, the
    step trains on fewer."""
    micro_batch_size: int = 64
    """Number of responses that a worker generates at once."""
    num_workers: int = 0
    """Number of rollout workers, each with a GPU and a whole copy of the policy; 0 generates on the policy's
    workers."""
    max_staleness: int = 0
    """Number of steps by which the weights that generate a rollout may be older than the policy. With 1, rollout
    workers generate the samples of the next step while the policy trains on the current step, and ratios are relative
    to the older weights. With 0, rollout workers wait for the new weights."""
    text: TextSamplingConfig = field(default_factory=TextSamplingConfig)
    """Sampling of text responses, and of the thoughts before an image."""
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    """Sampling of images. `num_image_tokens` is set by image.resolution."""
    max_text_tokens: int = 0
    """For `r2i`: number of tokens of the request and the thoughts together, padded with end-of-text tokens as in
    training. 0 uses the number in the policy's config.json; if it has none, a single end-of-text token ends the
    thoughts."""

    def __post_init__(self) -> None:
        positive("rollout.batch_size", self.batch_size)
        positive("rollout.micro_batch_size", self.micro_batch_size)
        require(self.oversample >= 1, f"rollout.oversample is {self.oversample}; it must be 1 or more")
        require(self.num_workers >= 0, f"rollout.num_workers is {self.num_workers}; it must be 0 or more")
        require(
            self.max_staleness in (0, 1),
            f"rollout.max_staleness is {self.max_staleness}; choose 0, or 1: one step is generated ahead, never more",
        )
        require(
            self.num_workers > 0 or self.max_staleness == 0,
            "rollout.max_staleness is 1 without rollout workers: the policy's workers cannot generate while they "
            "train; set rollout.num_workers, or rollout.max_staleness 0",
        )
        require(
            self.n_samples_per_prompt >= 2,
            f"rollout.n_samples_per_prompt is {self.n_samples_per_prompt}: group advantages would all be 0; "
            "use at least 2",
        )
        check_text_steps("rollout.text.", self.text)
        check_image_steps("rollout.image.", self.image)
        for name in ("text", "image"):
            require(
                getattr(self, name).temperature > 0,
                f"rollout.{name}.temperature is 0: all samples of a prompt would be equal; use 1.0",
            )

    @property
    def num_sampled_prompts(self) -> int:
        """Number of prompts that a step samples."""
        return math.ceil(round(self.batch_size * self.oversample, 6))  # 10 x 1.1 is 11, whatever its rounding
