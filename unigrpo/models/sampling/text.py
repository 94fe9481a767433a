"""Semi-autoregressive text sampling: blocks from left to right, each unmasked in a fixed number of steps.

Source: LLaDA, arXiv:2502.09992, section 2.4 and algorithms 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unigrpo import ConfigError
from unigrpo.config import TextSamplingConfig
from unigrpo.models.guidance import guide
from unigrpo.models.sampling.cache import KeyValueCache
from unigrpo.models.sampling.remasking import at_least, commit_counts, most_confident
from unigrpo.models.sampling.tokens import (
    exponential_noise,
    log_prob_and_entropy,
    sample_tokens,
    sample_top_p,
    uniform_noise,
)
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Trajectory

TENSORS = ("tokens", "token_mask", "commit_step", "log_probs", "entropy")
"""Names of the tensors of a batch that have one entry for each row."""


@dataclass
class _Batch:
    """Unfinished samples, with one per row. The prompts are padded on the left."""

    index: list[int]
    generators: list[torch.Generator]
    prompt_length: int
    tokens: Tensor
    token_mask: Tensor
    commit_step: Tensor
    log_probs: Tensor
    entropy: Tensor
    is_padded: bool
    """Whether a row is shorter than the longest row."""
    response_length: int

    def part(self, rows: Sequence[int]) -> _Batch:
        """Returns some of the rows in their current state."""
        return replace(
            self,
            index=[self.index[r] for r in rows],
            generators=[self.generators[r] for r in rows],
            **{name: getattr(self, name)[list(rows)] for name in TENSORS},
        )

    def put(self, rows: Sequence[int], part: _Batch) -> None:
        """Writes a :meth:`part` back into its rows; writing the batch itself changes nothing."""
        for name in TENSORS if part is not self else ():
            getattr(self, name)[list(rows)] = getattr(part, name)

    def trimmed(self) -> _Batch:
        """Returns the batch without padding that all rows have: the sample with the longest prompt may be finished."""
        padding = (~self.token_mask[:, : self.prompt_length]).sum(dim=1).tolist()
        spare = min(padding, default=0)
        return replace(
            self,
            prompt_length=self.prompt_length - spare,
            is_padded=not self.token_mask[:, spare:].all(),
            **{name: getattr(self, name)[:, spare:] for name in TENSORS},
        )

    @property
    def response(self) -> slice:
        """Columns of the response."""
        return slice(self.prompt_length, self.prompt_length + self.response_length)


@torch.no_grad()
def sample_text(
    model: Callable[..., Any],
    prompts: Sequence[Int[Tensor, " _P"]],
    settings: TextSamplingConfig,
    vocabulary: Vocabulary,
    *,
    generators: Sequence[torch.Generator],
    suffixes: Sequence[Int[Tensor, " _S"]] | None = None,
) -> list[Trajectory]:
    """Generates one response to each prompt, on the CPU.

    A sample depends only on its own prompt and generator, and not on the rest of the batch.

    Args:
        model: The forward pass of :class:`~unigrpo.models.mmada.MMadaModelLM`.
        prompts: Token ids of B prompts, of any lengths.
        settings: Sampling settings.
        vocabulary: Mask and end-of-text ids.
        generators: One generator per prompt, on the CPU or the model's device.
        suffixes: Tokens of any lengths that the model sees after each response and that are not part of the sample;
            None for no tokens.

    Raises:
        ValueError: A prompt is empty under guidance or contains the mask token; the number of generators differs from
            that of prompts; or logits are not finite.
    """
    if len(generators) != len(prompts):
        raise ConfigError(f"{len(generators)} generators for {len(prompts)} prompts; give one for each")
    if not prompts:
        return []
    _check_prompts(prompts, settings, vocabulary)
    device = getattr(model, "device", torch.device("cpu"))
    batch = _start(
        prompts, suffixes or [torch.empty(0)] * len(prompts), settings, vocabulary, list(generators), device
    )
    finished: list[Trajectory | None] = [None] * len(prompts)
    num_blocks = settings.max_new_tokens // settings.block_length
    for block in range(num_blocks):
        _fill_block(model, batch, block, settings, vocabulary)
        done = _done_rows(batch, settings, vocabulary, is_last=block == num_blocks - 1)
        for row in torch.nonzero(done).flatten().tolist():
            finished[batch.index[row]] = _finish(batch, row, len(prompts[batch.index[row]]), vocabulary)
        batch = batch.part(torch.nonzero(~done).flatten().tolist()).trimmed()
        if not batch.index:
            break
    return [sample for sample in finished if sample is not None]


def _check_prompts(prompts: Sequence[Tensor], settings: TextSamplingConfig, vocabulary: Vocabulary) -> None:
    for number, prompt in enumerate(prompts):
        if settings.guidance_scale > 0 and len(prompt) == 0:
            raise ConfigError(
                f"prompt {number} is empty, so guidance_scale {settings.guidance_scale} has nothing to guide by"
            )
        if (prompt == vocabulary.mask_id).any():
            raise ConfigError(
                f"prompt {number} contains the mask token {vocabulary.mask_id}, which would be sampled over"
            )


def _start(
    prompts: Sequence[Tensor],
    suffixes: Sequence[Tensor],
    settings: TextSamplingConfig,
    vocabulary: Vocabulary,
    generators: list[torch.Generator],
    device: torch.device,
) -> _Batch:
    longest = max(len(prompt) for prompt in prompts)
    end = longest + settings.max_new_tokens
    shape = (len(prompts), end + max(len(suffix) for suffix in suffixes))
    tokens = torch.full(shape, vocabulary.end_of_text_id, device=device)
    token_mask = torch.zeros(shape, dtype=torch.bool, device=device)
    for row, (prompt, suffix) in enumerate(zip(prompts, suffixes, strict=True)):
        start = longest - len(prompt)
        tokens[row, start:longest] = prompt.to(device)
        tokens[row, longest:end] = vocabulary.mask_id
        tokens[row, end : end + len(suffix)] = suffix.to(device)
        token_mask[row, start : end + len(suffix)] = True
    return _Batch(
        index=list(range(len(prompts))),
        generators=generators,
        prompt_length=longest,
        tokens=tokens,
        token_mask=token_mask,
        commit_step=torch.full(shape, -1, device=device),
        log_probs=torch.zeros(shape, device=device),
        entropy=torch.zeros(shape, device=device),
        is_padded=len({len(p) for p in prompts}) > 1 or len({len(suffix) for suffix in suffixes}) > 1,
        response_length=settings.max_new_tokens,
    )


def _fill_block(
    model: Callable[..., Any], batch: _Batch, block: int, settings: TextSamplingConfig, vocabulary: Vocabulary
) -> None:
    """Unmasks one block of all rows in place.

    The CPU waits for the device only if there is a threshold, because then only the device knows how many tokens are
    left.
    """
    first = batch.prompt_length + block * settings.block_length
    columns = slice(first, first + settings.block_length)
    cache = None if settings.cache == "none" else KeyValueCache()
    num_steps = settings.num_denoising_steps * settings.block_length // settings.max_new_tokens
    counts = commit_counts(settings.block_length, num_steps)
    if settings.threshold > 0:
        counts = [0] * settings.block_length  # as many steps as it takes
    left = [settings.block_length] * len(batch.index)
    is_finite = torch.ones((), dtype=torch.bool, device=batch.tokens.device)
    rows, part = list(range(len(batch.index))), batch
    for step, count in enumerate(counts):
        masked = part.tokens[:, columns] == vocabulary.mask_id
        if settings.threshold > 0:
            left = masked.sum(dim=1).tolist()
            if not any(left):
                break
            unfinished = [row for row, number in enumerate(left) if number]
            if len(unfinished) <= len(left) / 2:  # not at every step: the caches are copied
                batch.put(rows, part)
                if cache is not None:
                    cache.keep(unfinished, len(rows))
                rows, part = [rows[row] for row in unfinished], part.part(unfinished)
                masked, left = masked[unfinished], [left[row] for row in unfinished]
        elif count == 0:
            break  # more steps than tokens: nothing is fixed, so nothing needs computing
        # Where the confidence does not decide, only the tokens that are fixed need logits and noise.
        chosen = _chosen_at_random(masked, left, count, part.generators, settings)
        read, numbers = (masked, left) if chosen is None else (chosen, _numbers(chosen, count, settings))
        logits = _logits(model, part, columns, read, sum(numbers), settings, vocabulary, cache)
        sampled, log_probs, entropy, confidence = _candidates(logits, numbers, part.generators, settings, vocabulary)
        is_finite &= log_probs.isfinite().all()
        if chosen is None:
            confidence = confidence.nan_to_num(0.0)  # so that the count holds until the end of the block, which raises
            chosen = _chosen(masked, confidence, count, settings)
        for target, values in ((part.tokens, sampled), (part.log_probs, log_probs), (part.entropy, entropy)):
            _commit(target[:, columns], read, chosen, values)
        part.commit_step[:, columns].masked_fill_(chosen, block * len(counts) + step)
        left = [n - count for n in left]
    batch.put(rows, part)
    if not is_finite:
        raise ConfigError("the model's logits are not finite; check its weights, or use an earlier checkpoint")


def _commit(block: Tensor, masked: Bool[Tensor, "B l"], chosen: Bool[Tensor, "B l"], values: Tensor) -> None:
    """Writes the selected ``values`` at masked positions, in place and without waiting for the device."""
    spread = torch.zeros_like(block).masked_scatter(masked, values)
    block.copy_(torch.where(chosen, spread, block))


def _chosen(
    masked: Bool[Tensor, "B l"], confidence: Float[Tensor, " N"], count: int, settings: TextSamplingConfig
) -> Bool[Tensor, "B l"]:
    """Returns the positions that a step fixes: the ``count`` most confident of each row, or for a count of 0 all that
    reach the threshold."""
    scores = torch.full(masked.shape, -torch.inf, device=masked.device).masked_scatter(masked, confidence)
    return at_least(scores, settings.threshold) if count == 0 else most_confident(scores, count)


def _chosen_at_random(
    masked: Bool[Tensor, "B l"],
    left: Sequence[int],
    count: int,
    generators: Sequence[torch.Generator],
    settings: TextSamplingConfig,
) -> Bool[Tensor, "B l"] | None:
    """Returns the positions that a step fixes under random remasking, which are known before tokens are sampled.

    The result is None for other kinds of remasking."""
    if settings.remasking != "random":
        return None
    return _chosen(masked, uniform_noise(left, generators, masked.device), count, settings)


def _numbers(chosen: Bool[Tensor, "B l"], count: int, settings: TextSamplingConfig) -> list[int]:
    """Returns the number of chosen positions of each row. The CPU waits for the device only if there is a
    threshold."""
    return chosen.sum(dim=1).tolist() if settings.threshold > 0 else [count] * len(chosen)


def _candidates(
    logits: Float[Tensor, "N V"],
    numbers: Sequence[int],
    generators: Sequence[torch.Generator],
    settings: TextSamplingConfig,
    vocabulary: Vocabulary,
) -> tuple[Int[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Returns a token for each position with logits, its log-probability, the entropy and its confidence.

    The mask token itself is never sampled; the log-probability is still that of the whole vocabulary, as in training.
    ``numbers`` contains the number of positions of each row. Logits are large, so few copies of them are made.
    """
    scaled = logits if settings.temperature in (0, 1) else logits / settings.temperature
    if settings.temperature > 0 and settings.top_p == 1:
        noise = exponential_noise(numbers, logits.shape[1], generators, logits.device)
        sampled = sample_tokens(scaled, noise, excluded=vocabulary.mask_id)
        del noise
    else:
        allowed = scaled.index_fill(1, torch.tensor([vocabulary.mask_id], device=logits.device), -torch.inf)
        if settings.temperature > 0:
            sampled = sample_top_p(allowed, settings.top_p, uniform_noise(numbers, generators, logits.device))
        else:
            sampled = allowed.argmax(dim=-1)
        del allowed
    log_probs, entropy = log_prob_and_entropy(scaled, sampled)
    if scaled is logits:
        return sampled, log_probs, entropy, log_probs.exp()
    return sampled, log_probs, entropy, logits.log_softmax(-1).gather(1, sampled[:, None])[:, 0].exp()


def _logits(
    model: Callable[..., Any],
    batch: _Batch,
    columns: slice,
    masked: Bool[Tensor, "B l"],
    num_masked: int,
    settings: TextSamplingConfig,
    vocabulary: Vocabulary,
    cache: KeyValueCache | None,
) -> Float[Tensor, "N V"]:
    """Returns float32 logits at the masked positions of the block. Guidance uses the masked prompt as unconditional
    one."""
    tokens, mask = batch.tokens, batch.token_mask if batch.is_padded else None
    positions = torch.zeros_like(batch.token_mask)
    positions[:, columns] = masked
    if settings.guidance_scale > 0:
        unconditional = tokens.clone()
        unconditional[:, : batch.prompt_length] = vocabulary.mask_id
        tokens, positions = torch.cat([tokens, unconditional]), positions.repeat(2, 1)
        mask = None if mask is None else mask.repeat(2, 1)
        num_masked *= 2
    arguments: dict[str, Any] = {"num_positions": num_masked}
    if cache is not None:
        arguments["cache"] = cache
        if cache.is_filled:
            window = slice(columns.start, columns.stop if settings.cache == "dual" else None)
            cache.first = columns.start
            tokens, positions = tokens[:, window], positions[:, window]
    logits = model(tokens, attention_mask=mask, positions=positions, **arguments).logits.float()
    if settings.guidance_scale == 0:
        return logits
    with_prompt, without = logits.chunk(2)
    return guide(with_prompt, without, settings.guidance_scale)


def _done_rows(
    batch: _Batch, settings: TextSamplingConfig, vocabulary: Vocabulary, *, is_last: bool
) -> Bool[Tensor, " B"]:
    if is_last:
        return torch.ones(len(batch.index), dtype=torch.bool)
    if not settings.stop_at_end_of_text:
        return torch.zeros(len(batch.index), dtype=torch.bool)
    return (batch.tokens[:, batch.response] == vocabulary.end_of_text_id).any(dim=1).cpu()


def _finish(batch: _Batch, row: int, prompt_length: int, vocabulary: Vocabulary) -> Trajectory:
    """Returns a finished row without padding. Positions at which nothing was sampled contain end-of-text."""
    whole = slice(batch.prompt_length - prompt_length, batch.response.stop)
    tokens = batch.tokens[row, whole].cpu()
    tokens = torch.where(tokens == vocabulary.mask_id, vocabulary.end_of_text_id, tokens)
    response = torch.arange(len(tokens)) >= prompt_length
    ends = (tokens == vocabulary.end_of_text_id) & response
    return Trajectory(
        token_ids=tokens,
        response_mask=response,
        image_mask=torch.zeros_like(response),
        scored_mask=response & (ends.cumsum(0) - ends.long() == 0),
        commit_step=batch.commit_step[row, whole].cpu(),
        commit_log_probs=batch.log_probs[row, whole].cpu(),
        commit_entropy=batch.entropy[row, whole].cpu(),
    )
