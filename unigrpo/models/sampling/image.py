"""Image sampling. Each step samples all masked codes, keeps the most confident ones, and masks the others again.

Source: MaskGIT, arXiv:2202.04200, section 3.2; guidance as in Muse, arXiv:2301.00704, section 2.7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.algorithm.schedule import masked_fraction
from unigrpo.config import ImageSamplingConfig
from unigrpo.models.guidance import guide
from unigrpo.models.sampling.cache import KeyValueCache
from unigrpo.models.sampling.tokens import exponential_noise, log_prob_and_entropy, sample_tokens, uniform_noise
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Trajectory

UNKNOWN = -1
"""Value among the known codes that marks a position to generate."""
MIN_PROBABILITY = 1e-20
"""Smallest probability and smallest uniform random number, so that no logarithm is infinite."""
MIN_LENGTH_RATIO = 0.875
"""Smallest ratio of row lengths at which prompts and unconditional prompts use one pass. Below it, padding costs
more."""


@dataclass
class _Rows:
    """Rows of one forward pass, padded on the left."""

    tokens: Int[Tensor, "R L"]
    token_mask: Bool[Tensor, "R L"]
    is_padded: bool
    """Whether a row is shorter than the longest row."""
    columns: slice
    """Columns of the image in each row."""
    cache: KeyValueCache | None

    def logits(
        self, model: Callable[..., Any], masked: Bool[Tensor, "B N"], num_masked: int, vocabulary: Vocabulary
    ) -> Float[Tensor, "M V"]:
        """Returns float32 logits of the image codes at the masked positions of all rows, which contain each image R /
        B times."""
        copies = len(self.tokens) // len(masked)
        positions = torch.zeros_like(self.token_mask)
        positions[:, self.columns] = masked.repeat(copies, 1)
        tokens, arguments = self.tokens, {} if self.cache is None else {"cache": self.cache}
        if self.cache is not None and self.cache.is_filled:
            self.cache.first = self.columns.start
            tokens, positions = tokens[:, self.columns.start :], positions[:, self.columns.start :]
        out = model(
            tokens,
            attention_mask=self.token_mask if self.is_padded else None,
            positions=positions,
            num_positions=copies * num_masked,
            vocab_slice=vocabulary.image_slice,
            **arguments,
        )
        return out.logits.float()


@dataclass(frozen=True)
class _Batch:
    """Unfinished images. With guidance, the unconditional rows are at the end of ``rows``, or separately in
    ``guides``."""

    rows: _Rows
    guides: _Rows | None
    generators: Sequence[torch.Generator]

    @property
    def image(self) -> Int[Tensor, "B N"]:
        return self.rows.tokens[: len(self.generators), self.rows.columns]

    def show(self, image: Int[Tensor, "B N"]) -> None:
        """Writes the images into all rows."""
        for rows in (self.rows, self.guides):
            if rows is not None:
                rows.tokens[:, rows.columns] = image.repeat(len(rows.tokens) // len(image), 1)


@torch.no_grad()
def sample_images(
    model: Callable[..., Any],
    prompts: Sequence[Int[Tensor, " _P"]],
    settings: ImageSamplingConfig,
    vocabulary: Vocabulary,
    *,
    generators: Sequence[torch.Generator],
    unconditional: Sequence[Int[Tensor, " _Q"]] | None = None,
    known: Sequence[Int[Tensor, " N"] | None] | None = None,
) -> list[Trajectory]:
    """Generates one image after each prompt. The results are on the CPU and end with end-of-image.

    Known codes and end-of-image are not part of the response. A sample depends only on its own prompts, known codes
    and generator, and not on the rest of the batch.

    Args:
        model: The forward pass of :class:`~unigrpo.models.mmada.MMadaModelLM`.
        prompts: Token ids of B prompts of any lengths, each up to and including start-of-image.
        settings: Sampling settings.
        vocabulary: Mask id, end-of-image id and the range of the image codes.
        generators: One generator per prompt, on the CPU or the model's device.
        unconditional: For guidance, the unconditional prompts, of any lengths, up to and including start-of-image.
        known: For inpainting, the given codes, and :data:`UNKNOWN` at positions to generate; None generates whole
            images.

    Raises:
        ValueError: Guidance has no unconditional prompts; a prompt contains the mask token; an argument does not have
            one entry per prompt; known codes have another number or are outside the codebook; the checkpoint has no
            image codes; or logits are not finite.
    """
    check_arguments(prompts, settings, vocabulary, generators, unconditional, known)
    if not prompts:
        return []
    device = getattr(model, "device", torch.device("cpu"))
    guides = unconditional if unconditional is not None and settings.guidance_scale > 0 else ()
    batch = _start(prompts, guides, settings, vocabulary, generators, known, device)
    commit_step = torch.full(batch.image.shape, -1, device=device)
    commit_log_probs = torch.zeros(batch.image.shape, device=device)
    commit_entropy = torch.zeros_like(commit_log_probs)
    is_finite = torch.ones((), dtype=torch.bool, device=device)
    for step in range(settings.num_denoising_steps):
        masked = batch.image == vocabulary.mask_id
        left = masked.sum(dim=1).tolist()
        if not any(left):
            break
        sampled, log_probs, entropy, confidence = _candidates(model, batch, masked, left, settings, vocabulary)
        is_finite &= log_probs.isfinite().all()
        kept = masked
        if step < settings.num_denoising_steps - 1:
            counts = mask_counts(settings, step, masked.sum(dim=1))
            noise = _remasking_noise(batch, masked, left) * remasking_temperature(settings, step)
            kept = masked & ~least_sure(confidence + noise, counts)
        batch.show(torch.where(kept, sampled, batch.image))
        commit_step[kept] = step
        commit_log_probs = torch.where(kept, log_probs, commit_log_probs)
        commit_entropy = torch.where(kept, entropy, commit_entropy)
    if not is_finite:  # asked once, because the answer waits for the device
        raise ConfigError("the model's logits are not finite; check its weights, or use an earlier checkpoint")
    return [
        _finish(batch.image[row], prompt, commit_step[row], commit_log_probs[row], commit_entropy[row], vocabulary)
        for row, prompt in enumerate(prompts)
    ]


def mask_counts(settings: ImageSamplingConfig, step: int, num_masked: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Returns the number of codes to mask again after a step: the schedule's fraction of all N, but fewer than before.

    The last step keeps all codes and does not call this function, so the result is never 0.

    Args:
        settings: Schedule, number of steps and N.
        step: Number of the step, from 0.
        num_masked: Number of masked codes before the step.
    """
    fraction = masked_fraction(settings.schedule, torch.tensor((step + 1) / settings.num_denoising_steps))
    count = int((settings.num_image_tokens * fraction).floor())
    return (num_masked - 1).clamp(max=count).clamp(min=1)


def remasking_temperature(settings: ImageSamplingConfig, step: int) -> float:
    """Returns the factor of the Gumbel noise at a step, from 0; it is 0 at the last step."""
    left = [1 - (k + 1) / settings.num_denoising_steps for k in range(step + 1)]
    return settings.remasking_temperature * (left[-1] if settings.remasking_anneal == "linear" else math.prod(left))


def gumbel(uniform: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Returns Gumbel noise from uniform random numbers."""
    return -(-uniform.clamp(min=MIN_PROBABILITY).log()).clamp(min=MIN_PROBABILITY).log()


def least_sure(confidence: Float[Tensor, "B N"], counts: Int[Tensor, " B"]) -> Bool[Tensor, "B N"]:
    """Selects the values of each row that are smaller than its value of rank ``counts``, counted from 0.

    These are the ``counts`` smallest values, or fewer if there are ties at this value."""
    ordered = confidence.sort(dim=1).values
    return confidence < ordered.gather(1, counts[:, None].clamp(max=confidence.shape[1] - 1))


def check_arguments(
    prompts: Sequence[Int[Tensor, " _P"]],
    settings: ImageSamplingConfig,
    vocabulary: Vocabulary,
    generators: Sequence[torch.Generator],
    unconditional: Sequence[Int[Tensor, " _Q"]] | None,
    known: Sequence[Int[Tensor, " _N"] | None] | None,
) -> None:
    """Checks the arguments of :func:`sample_images`.

    Raises:
        ValueError: As :func:`sample_images`.
    """
    if vocabulary.codebook_size == 0:
        raise ConfigError("the checkpoint has no image codes (codebook_size is 0); use a multimodal one")
    if settings.guidance_scale > 0 and unconditional is None:
        raise ConfigError(
            f"guidance_scale is {settings.guidance_scale} without an unconditional prompt to compare with; give one, "
            "or set guidance_scale 0"
        )
    for what, given in (("generators", generators), ("unconditional prompts", unconditional), ("known", known)):
        if given is not None and len(given) != len(prompts):
            raise ConfigError(f"{len(given)} {what} for {len(prompts)} prompts; give one for each")
    for number, prompt in enumerate([*prompts, *(unconditional or ())]):
        if (prompt == vocabulary.mask_id).any():
            raise ConfigError(f"prompt {number} contains the mask token {vocabulary.mask_id}; remove it")
    for number, codes in enumerate(known or ()):
        if codes is None:
            continue
        if codes.shape != (settings.num_image_tokens,):
            raise ConfigError(
                f"known {number} has shape {tuple(codes.shape)}, expected ({settings.num_image_tokens},) as "
                f"num_image_tokens says; put {UNKNOWN} where to generate"
            )
        vocabulary.image_ids(codes[codes != UNKNOWN])  # fails outside the codebook


def _start(
    prompts: Sequence[Tensor],
    guides: Sequence[Tensor],
    settings: ImageSamplingConfig,
    vocabulary: Vocabulary,
    generators: Sequence[torch.Generator],
    known: Sequence[Int[Tensor, " _N"] | None] | None,
    device: torch.device,
) -> _Batch:
    """Combines prompts and unconditional prompts of similar lengths into one pass. Otherwise each gets its own pass
    without padding."""
    images = torch.full((len(prompts), settings.num_image_tokens), vocabulary.mask_id)
    for row, codes in enumerate(known or ()):
        if codes is not None:
            images[row] = torch.where(codes == UNKNOWN, vocabulary.mask_id, codes.cpu() + vocabulary.image_offset)

    def rows(some: Sequence[Tensor]) -> _Rows:
        return _padded(some, images, settings, vocabulary, device)

    if not guides:
        return _Batch(rows(prompts), None, generators)
    lengths = [max(map(len, some)) + settings.num_image_tokens + 1 for some in (prompts, guides)]
    if min(lengths) >= MIN_LENGTH_RATIO * max(lengths):
        return _Batch(rows([*prompts, *guides]), None, generators)
    return _Batch(rows(prompts), rows(guides), generators)


def _padded(
    prompts: Sequence[Tensor],
    images: Int[Tensor, "B N"],
    settings: ImageSamplingConfig,
    vocabulary: Vocabulary,
    device: torch.device,
) -> _Rows:
    """Returns rows of a prompt, an image and end-of-image. If there are more prompts than images, the images
    repeat."""
    longest, size = max(len(prompt) for prompt in prompts), settings.num_image_tokens
    tokens = torch.full((len(prompts), longest + size + 1), vocabulary.image_pad_id)
    token_mask = torch.ones_like(tokens, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        token_mask[row, : longest - len(prompt)] = False
        tokens[row, longest - len(prompt) : longest] = prompt.cpu()
    columns = slice(longest, longest + size)
    tokens[:, columns] = images.repeat(len(prompts) // len(images), 1)
    tokens[:, -1] = vocabulary.eoi_id
    return _Rows(
        tokens=tokens.to(device),
        token_mask=token_mask.to(device),
        is_padded=len({len(prompt) for prompt in prompts}) > 1,
        columns=columns,
        cache=KeyValueCache() if settings.cache == "text" else None,
    )


def _candidates(
    model: Callable[..., Any],
    batch: _Batch,
    masked: Bool[Tensor, "B N"],
    left: Sequence[int],
    settings: ImageSamplingConfig,
    vocabulary: Vocabulary,
) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Returns a token for every masked position, its log-probability, the entropy and its confidence.

    The confidence at other positions is infinite.

    Confidence is the log-probability before the temperature.
    """
    logits = _logits(model, batch, masked, sum(left), settings, vocabulary)
    scaled = logits if settings.temperature in (0, 1) else logits / settings.temperature
    if settings.temperature > 0:
        sampled = sample_tokens(scaled, exponential_noise(left, logits.shape[1], batch.generators, logits.device))
    else:
        sampled = scaled.argmax(dim=-1)
    log_probs, entropy = log_prob_and_entropy(scaled, sampled)
    plain = log_probs if scaled is logits else logits.log_softmax(-1).gather(1, sampled[:, None])[:, 0]
    return (
        batch.image.masked_scatter(masked, sampled + vocabulary.image_offset),
        torch.zeros_like(masked, dtype=torch.float32).masked_scatter(masked, log_probs),
        torch.zeros_like(masked, dtype=torch.float32).masked_scatter(masked, entropy),
        torch.full_like(masked, torch.inf, dtype=torch.float32).masked_scatter(
            masked, plain.clamp(min=math.log(MIN_PROBABILITY))
        ),
    )


def _logits(
    model: Callable[..., Any],
    batch: _Batch,
    masked: Bool[Tensor, "B N"],
    num_masked: int,
    settings: ImageSamplingConfig,
    vocabulary: Vocabulary,
) -> Float[Tensor, "M V"]:
    """Returns float32 logits of the image codes at the M masked positions, with guidance if there are unconditional
    rows."""
    logits = batch.rows.logits(model, masked, num_masked, vocabulary)
    if settings.guidance_scale == 0:
        return logits
    if batch.guides is None:
        with_prompt, without = logits.chunk(2)
    else:
        with_prompt, without = logits, batch.guides.logits(model, masked, num_masked, vocabulary)
    return guide(with_prompt, without, settings.guidance_scale)


def _remasking_noise(batch: _Batch, masked: Bool[Tensor, "B N"], left: Sequence[int]) -> Float[Tensor, "B N"]:
    """Returns Gumbel noise at the masked positions."""
    noise = gumbel(uniform_noise(left, batch.generators, masked.device))
    return torch.zeros_like(masked, dtype=torch.float32).masked_scatter(masked, noise)


def _finish(
    image: Tensor, prompt: Tensor, steps: Tensor, log_probs: Tensor, entropy: Tensor, vocabulary: Vocabulary
) -> Trajectory:
    """Returns one row without padding; ``image`` holds token ids."""
    around = (len(prompt), 1)
    steps = torch.nn.functional.pad(steps.cpu(), around, value=-1)
    is_generated = steps >= 0
    return Trajectory(
        token_ids=torch.cat([prompt.cpu(), image.cpu(), torch.tensor([vocabulary.eoi_id])]),
        response_mask=is_generated,
        scored_mask=is_generated,
        image_mask=is_generated,
        commit_step=steps,
        commit_log_probs=torch.nn.functional.pad(log_probs.cpu(), around),
        commit_entropy=torch.nn.functional.pad(entropy.cpu(), around),
    )
