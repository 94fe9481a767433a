"""Samples and scores as the first public code of these models does, which is the baseline of the benchmarks.

This code computes logits of the whole vocabulary at every position, draws float64 noise for all of them, pads every
image prompt to the full length, and scores by a softmax over full logits. The random numbers can be passed as an
argument, to compare the results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from samples import FullRows
from torch import Tensor

from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.sampling.image import mask_counts, remasking_temperature
from unigrpo.models.vocabulary import Vocabulary

Noise = Callable[[Tensor, int], Tensor]
"""Function of the masked tokens (B, L) and the size of the vocabulary that returns exponential noise (B, L, V)."""


def left_padded(prompts: Sequence[Tensor], length: int, fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns padded prompts (B, length), and a mask of the tokens that are not padding."""
    tokens = torch.full((len(prompts), length), fill, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, length - len(prompt) :] = prompt.to(device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    return tokens, torch.arange(length, device=device) >= length - lengths[:, None]


def float64_noise(masked: Tensor, num_ids: int) -> Tensor:
    """Returns noise for all positions, masked or not."""
    return torch.empty(*masked.shape, num_ids, dtype=torch.float64, device=masked.device).exponential_()


@torch.no_grad()
def sample_text(
    model: MMadaModelLM,
    prompts: Sequence[Tensor],
    settings: TextSamplingConfig,
    vocabulary: Vocabulary,
    noise: Noise = float64_noise,
) -> tuple[Tensor, Tensor]:
    """Returns responses (B, max_new_tokens), and the log-probabilities of their tokens when they were fixed."""
    length, end = max(map(len, prompts)), settings.max_new_tokens
    tokens, real = left_padded(prompts, length, vocabulary.end_of_text_id, model.device)
    tokens = torch.cat([tokens, torch.full((len(prompts), end), vocabulary.mask_id, device=model.device)], dim=1)
    real = torch.cat([real, torch.ones_like(tokens[:, length:], dtype=torch.bool)], dim=1)
    log_probs = torch.zeros(tokens.shape, dtype=torch.float64, device=model.device)
    num_blocks = end // settings.block_length
    for block in range(num_blocks):
        stop = length + (block + 1) * settings.block_length
        for _ in range(settings.num_denoising_steps // num_blocks):
            masked = tokens == vocabulary.mask_id
            logits = model(tokens, attention_mask=real).logits.double()
            allowed = logits.clone()
            allowed[..., vocabulary.mask_id] = -torch.inf
            if settings.temperature > 0:
                drawn = (allowed.exp() / noise(masked, logits.shape[-1]) ** settings.temperature).argmax(dim=-1)
            else:
                drawn = allowed.argmax(dim=-1)
            sure = logits.softmax(dim=-1).gather(-1, drawn[..., None])[..., 0]
            sure = sure.masked_fill(~masked, -torch.inf)
            sure[:, stop:] = -torch.inf
            count = settings.max_new_tokens // settings.num_denoising_steps
            for row, places in enumerate(sure.topk(count, dim=1).indices):
                tokens[row, places] = drawn[row, places]
                log_probs[row, places] = sure[row, places].log()
    return tokens[:, length:], log_probs[:, length:]


@torch.no_grad()
def sample_images(
    model: MMadaModelLM,
    prompts: Sequence[Tensor],
    empty: Tensor,
    settings: ImageSamplingConfig,
    vocabulary: Vocabulary,
    max_text_tokens: int,
    noise: Noise | None = None,
    remasking_noise: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns token ids of the images (B, N), and their log-probabilities when they were fixed."""
    size, device, count = settings.num_image_tokens, model.device, len(prompts)
    length = max_text_tokens + 2  # task token and text, then start-of-image
    both = [*prompts, *[empty] * count]
    tokens, real = left_padded(both, length, vocabulary.image_pad_id, device)
    image = torch.full((count, size), vocabulary.mask_id, device=device)
    end = torch.full((2 * count, 1), vocabulary.eoi_id, device=device)
    real = torch.cat([real, torch.ones(2 * count, size + 1, dtype=torch.bool, device=device)], dim=1)
    kept_log_probs = torch.zeros(count, size, device=device)
    first, stop = vocabulary.image_slice
    for step in range(settings.num_denoising_steps):
        masked = image == vocabulary.mask_id
        rows = torch.cat([tokens, image.repeat(2, 1), end], dim=1)
        with_prompt, without = model(rows, attention_mask=real).logits.chunk(2)
        scale = settings.guidance_scale
        logits = ((1 + scale) * with_prompt - scale * without)[:, -size - 1 : -1, first:stop].float()
        probs = logits.softmax(dim=-1)
        if noise is None:
            drawn = torch.multinomial(probs.flatten(0, 1), 1).view(count, size)
        else:
            drawn = (probs / noise(masked, stop - first)).argmax(dim=-1)
        log_probs = probs.gather(-1, drawn[..., None])[..., 0].clamp(min=1e-20).log()
        drawn = torch.where(masked, drawn + first, image)
        if step == settings.num_denoising_steps - 1:
            kept_log_probs[masked] = log_probs[masked]
            return drawn, kept_log_probs
        uniform = torch.rand(masked.shape, device=device) if remasking_noise is None else remasking_noise(masked)
        gumbel = -(-uniform.clamp(min=1e-20).log()).clamp(min=1e-20).log()
        sure = (log_probs + remasking_temperature(settings, step) * gumbel).masked_fill(~masked, torch.inf)
        counts = mask_counts(settings, step, masked.sum(dim=1))
        limit = sure.sort(dim=1).values.gather(1, counts[:, None])
        kept = masked & (sure >= limit)
        image = torch.where(kept | ~masked, drawn, vocabulary.mask_id)
        kept_log_probs[kept] = log_probs[kept]
    raise AssertionError("the last step fixes all tokens")


def log_likelihood(model: MMadaModelLM, batch: FullRows, mask_id: int, image_slice: tuple[int, int]) -> Tensor:
    """Returns log-probabilities (B, L) of scored tokens in the first view, by a softmax over full logits; 0
    elsewhere."""
    counted = batch.is_scored
    xt = batch.token_ids.masked_fill(batch.is_masked, mask_id)
    logits = model(xt, attention_mask=batch.token_mask).logits.float()
    text = logits.log_softmax(dim=-1).gather(-1, batch.token_ids[..., None])[..., 0]
    if not batch.image_mask.any():
        return text.masked_fill(~counted, 0.0)
    first, stop = image_slice
    codes = (batch.token_ids - first).clamp(0, stop - first - 1)
    image = logits[..., first:stop].log_softmax(dim=-1).gather(-1, codes[..., None])[..., 0]
    return torch.where(batch.image_mask, image, text).masked_fill(~counted, 0.0)
