"""Tests on small random models that samples, scores and gradients of the plain code and of ours are equal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import image_rollout
import plain
import pytest
import scoring
import text_rollout
import torch
import update
from logit_memory import peak_logit_bytes
from samples import image_sample, run_config, scoring_settings, text_sample
from sizes import SIZES, Size

from unigrpo.models.sampling.image import sample_images
from unigrpo.models.sampling.text import sample_text
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import score


@pytest.fixture
def size() -> Size:
    """Returns three prompts of different lengths, and a model whose logits have a large variance."""
    small = SIZES["small"]
    sizes: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32, "init_std": 0.4}
    return replace(
        small,
        model=small.model | sizes,
        text=replace(small.text, max_new_tokens=12, block_length=4, num_denoising_steps=6, stop_at_end_of_text=False),
        image=replace(small.image, num_image_tokens=16, num_denoising_steps=4),
        text_prompts=(9, 3, 6),
        image_prompts=(7, 12, 5),
        max_text_tokens=20,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_text_of_mixed_prompt_lengths_is_that_of_the_plain_sampler(size: Size, temperature: float) -> None:
    model, settings = size.build(), replace(size.text, temperature=temperature)
    prompts = size.text_tokens(size.text_prompts)
    samples = sample_text(model, prompts, settings, size.vocabulary, generators=size.generators(3))
    assert text_rollout.equality(model, size, settings, samples).startswith("100.0% of tokens")
    other = sample_text(model, prompts, settings, size.vocabulary, generators=size.generators(4)[1:])
    if temperature:
        with pytest.raises(AssertionError, match="of the tokens are equal"):
            text_rollout.equality(model, size, settings, other)


def test_images_of_mixed_prompt_lengths_are_those_of_the_plain_sampler(size: Size) -> None:
    model, empty = size.build(), size.empty_image_tokens()
    prompts = size.image_tokens(size.image_prompts)
    samples = sample_images(
        model, prompts, size.image, size.vocabulary, generators=size.generators(3), unconditional=[empty] * 3
    )
    tokens, log_probs = plain.sample_images(
        model, prompts, empty, size.image, size.vocabulary, size.max_text_tokens, *image_rollout.shared_noise(size)
    )
    assert image_rollout.equality(size, samples, tokens, log_probs).startswith("100.0% of codes")


def test_scores_and_gradients_are_those_of_full_logits_and_padded_rows(size: Size) -> None:
    model = size.build()
    samples = [make(size, number) for number in range(3) for make in (text_sample, image_sample)]
    found = score(scoring.Scorer(model), run_config(4), scoring_settings(size), [s.rollout for s in samples])
    assert all((one[0] < 0).all() and len(one[0]) > 0 for one in found)
    scoring.equality(size, samples, found, scoring.plain_scores(model, size, samples))
    samples = [replace(sample, old_log_probs=one) for sample, one in zip(samples, found, strict=True)]
    update.equality(model, size, samples, 4)


def test_scoring_all_inner_updates_needs_the_logit_memory_of_one(size: Size) -> None:
    model, widths = size.build(), (size.num_ids, size.vocabulary.codebook_size)
    settings, engine = scoring_settings(size), LocalEngine(size.build(), run_config(4).actor, 1)

    def peak(num_updates: int) -> int:
        samples = [make(size, number).rollout for number in range(2) for make in (text_sample, image_sample)]
        return peak_logit_bytes(lambda: score(engine, run_config(4, num_updates), settings, samples), widths)

    assert peak(4) == peak(1) > 0
    logits = peak_logit_bytes(lambda: model(torch.zeros(1, 5, dtype=torch.long)), widths)
    assert logits == 5 * size.num_ids * 4, "the peak includes the logits"
