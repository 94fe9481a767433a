"""How responses are sampled."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from unigrpo.config.checks import choice, positive, require, within

Remasking = Literal["low_confidence", "random"]
TextCache = Literal["none", "prefix", "dual"]
ImageCache = Literal["none", "text"]


@dataclass(frozen=True, kw_only=True)
class TextSamplingConfig:
    max_new_tokens: int = 256
    """Length of every response, tokens; what follows the first end-of-text is padding."""
    num_denoising_steps: int = 128
    """Forward passes for one response; a multiple of the number of blocks."""
    block_length: int = 32
    """Tokens of one block; blocks are written left to right and must divide max_new_tokens."""
    temperature: float = 1.0
    """Divides the logits when drawing and when scoring; 0 takes the most likely token."""
    top_p: float = 1.0
    """Draw only from the smallest set of tokens with this probability mass; 1 draws from all."""
    remasking: Remasking = "low_confidence"
    """Which drawn tokens stay: the most confident ones, or random ones."""
    guidance_scale: float = 0.0
    """Classifier-free guidance against the masked prompt; 0 is off."""
    threshold: float = 0.0
    """Above 0, every step fixes all tokens with at least this confidence, and at least one; replaces the schedule."""
    cache: TextCache = "none"
    """Keys and values to take from the first pass of a block in its other steps: of the tokens before it (`prefix`),
    of those before and behind it (`dual`), or `none`. Faster; what is drawn then differs a little from the model."""
    stop_at_end_of_text: bool = True
    """Once a block holds end-of-text, the rest of that response is padding and is not sampled."""

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
        choice("remasking", self.remasking, ("low_confidence", "random"))
        choice("cache", self.cache, ("none", "prefix", "dual"))
        require(self.guidance_scale >= 0, f"guidance_scale is {self.guidance_scale}; it must be 0 or more")
        within("threshold", self.threshold, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class ImageSamplingConfig:
    """Sampling of images."""

    num_image_tokens: int = 1024
    """Codes of one image: (pixels of a side / 16) squared with the published tokenizer, 1024 for 512 pixels."""
    num_denoising_steps: int = 15
    """Forward passes for one image; each keeps the surest codes and hides the others again."""
    schedule: str = "cosine"
    """Share of the codes that stays hidden after each step: `cosine`, `linear`, `sigmoid`, or `pow2`, `pow0.5` ..."""
    temperature: float = 1.0
    """Divides the logits when drawing and when scoring; 0 takes the most likely code."""
    remasking_temperature: float = 1.0
    """Gumbel noise on the log-probabilities by which codes are kept, at the start; it is annealed to 0."""
    remasking_anneal: Literal["linear", "compounding"] = "linear"
    """`compounding` multiplies the linear factors of all steps so far, as the released code does."""
    guidance_scale: float = 3.5
    """Classifier-free guidance against an unconditional prompt; 0 is off."""
    cache: ImageCache = "none"
    """`text` takes the prompt's keys and values from the first step, when no code was known yet, in all others."""

    def __post_init__(self) -> None:
        positive("num_image_tokens", self.num_image_tokens)
        positive("num_denoising_steps", self.num_denoising_steps)
        require(
            re.fullmatch(r"cosine|linear|sigmoid|pow(?=.*[1-9])\d*\.?\d+", self.schedule) is not None,
            f"schedule: no {self.schedule!r}; choose `cosine`, `linear`, `sigmoid` or `pow` with an exponent, as pow2",
        )
        for name in ("temperature", "remasking_temperature", "guidance_scale"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more")
        choice("cache", self.cache, ("none", "text"))
        choice("remasking_anneal", self.remasking_anneal, ("linear", "compounding"))


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    batch_size: int = 16
    """Prompts of one step."""
    n_samples_per_prompt: int = 8
    """Responses of one prompt: the group whose rewards are compared."""
    micro_batch_size: int = 64
    """Responses that a worker samples at once."""
    num_workers: int = 0
    """Rollout workers, each with a GPU and a whole copy of the policy; 0 generates on the policy's workers."""
    max_staleness: int = 0
    """Steps by which the weights of a rollout may be behind. With 1, rollout workers generate for the next step while
    this one is rewarded and trained on, and the ratios are those to the older weights; 0 waits for the new ones."""
    text: TextSamplingConfig = field(default_factory=TextSamplingConfig)
    """Sampling of text responses, and of the thoughts before a drawing."""
    image: ImageSamplingConfig = field(default_factory=ImageSamplingConfig)
    """Sampling of images; `num_image_tokens` follows from image.resolution."""
    max_text_tokens: int = 0
    """`r2i`: end-of-text fills request and thoughts up to so many tokens, as in training; 0 takes the number of the
    policy's config.json, and without one there closes them with one end-of-text."""

    def __post_init__(self) -> None:
        positive("rollout.batch_size", self.batch_size)
        positive("rollout.micro_batch_size", self.micro_batch_size)
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
        for name in ("text", "image"):
            require(
                getattr(self, name).temperature > 0,
                f"rollout.{name}.temperature is 0: all samples of a prompt would be equal; use 1.0",
            )
