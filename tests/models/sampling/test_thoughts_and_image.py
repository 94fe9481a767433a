"""Tests thinking before text to image: the row, its spans, and independence of the batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.data.layouts import r2i_prompt, r2i_row, t2i_unconditional_prompt
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.thoughts_and_image import sample_thoughts_and_images
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Trajectory

VOCABULARY = Vocabulary(
    mask_id=1,
    begin_of_text_id=4,
    end_of_text_id=5,
    image_pad_id=6,
    soi_id=2,
    eoi_id=3,
    t2i_id=7,
    mmu_id=8,
    r2i_id=9,
    end_header_id=10,
    image_offset=26,
    codebook_size=24,
)
TEXT = TextSamplingConfig(max_new_tokens=8, block_length=4, num_denoising_steps=4)
IMAGE = ImageSamplingConfig(num_image_tokens=9, num_denoising_steps=3, guidance_scale=1.0)
PROMPTS = [r2i_prompt([11, 12, 10][-n:], VOCABULARY) for n in (1, 3, 2)]
GUIDES = [t2i_unconditional_prompt(VOCABULARY)] * 3


@pytest.fixture(scope="module")
def model():
    """Returns a random model with so likely an end-of-text that some thoughts end early and some never."""
    torch.manual_seed(0)
    config = MMadaConfig(d_model=16, n_layers=2, n_heads=2, mlp_hidden_size=32, vocab_size=50, init_std=0.4)
    network = MMadaModelLM(config).eval()

    def ending(tokens, **kwargs):
        out = network(tokens, **kwargs)
        if "vocab_slice" not in kwargs:
            out.logits[:, VOCABULARY.end_of_text_id] += 1.0
        return out

    return ending


def codes_of(sample: Trajectory) -> torch.Tensor:
    return VOCABULARY.image_codes(sample.token_ids[sample.image_mask])


def run(model, prompts, seeds, **changes: Any):
    arguments: dict[str, Any] = {"unconditional": GUIDES[: len(prompts)], **changes}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return sample_thoughts_and_images(model, prompts, TEXT, IMAGE, VOCABULARY, generators=generators, **arguments)


@pytest.mark.parametrize("max_text_tokens", [None, 16])
def test_a_batch_of_mixed_lengths_equals_one_by_one(model, max_text_tokens):
    together = run(model, PROMPTS, [0, 1, 2], max_text_tokens=max_text_tokens)
    for i, prompt in enumerate(PROMPTS):
        (alone,) = run(model, [prompt], [i], max_text_tokens=max_text_tokens)
        assert torch.equal(together[i].token_ids, alone.token_ids)
        assert torch.equal(together[i].commit_step, alone.commit_step)
        torch.testing.assert_close(together[i].commit_log_probs, alone.commit_log_probs, rtol=1e-4, atol=1e-4)
    assert len({tuple(codes_of(one).tolist()) for one in together}) == 3


def test_the_row_is_the_one_of_training(model):
    seen_ends = set()
    for prompt, one in zip(PROMPTS, run(model, PROMPTS, [0, 1, 2], max_text_tokens=16), strict=True):
        response = one.token_ids[one.text_mask].tolist()
        seen_ends.add(5 in response)
        text = [*prompt[1:].tolist(), *response]
        expected = r2i_row(text, codes_of(one), VOCABULARY, max_text_tokens=16)
        assert torch.equal(one.token_ids, expected.token_ids)
        steps = one.commit_step
        assert steps[one.image_mask].min() == steps[one.text_mask].max() + 1
        assert torch.equal(steps >= 0, one.image_mask | (one.text_mask & (steps < steps[one.image_mask].min())))
        assert one.image_mask.nonzero().flatten().tolist() == list(range(18, 27))
    assert seen_ends == {True, False}, "both thoughts that end and thoughts that do not must occur"


def test_thoughts_are_sampled_in_the_row_of_training_with_the_image_masked():
    """The first pass must have the row of training with thoughts and image masked, not a row that ends with
    thoughts."""
    seen: list[torch.Tensor] = []

    def model(tokens, *, positions, attention_mask, vocab_slice=None, **_):
        if not seen:
            seen.extend(row[mask] for row, mask in zip(tokens, attention_mask, strict=True))
        width = 50 if vocab_slice is None else 24
        return SimpleNamespace(logits=torch.zeros(int(positions.sum()), width))

    run(model, PROMPTS, [0, 1, 2], max_text_tokens=16)
    for prompt, row in zip(PROMPTS, seen, strict=True):
        expected = r2i_row([*prompt[1:].tolist(), *[1] * 8], torch.zeros(9).long(), VOCABULARY, max_text_tokens=16)
        is_image = torch.arange(len(expected.token_ids)) >= len(expected.token_ids) - 10
        is_image[-1] = False
        assert torch.equal(row, expected.token_ids.masked_fill(is_image, VOCABULARY.mask_id))


def test_without_a_length_the_thoughts_end_with_one_end_of_text(model):
    for prompt, one in zip(PROMPTS, run(model, PROMPTS, [0, 1, 2]), strict=True):
        end = len(prompt) + 8
        assert one.token_ids[end : end + 2].tolist() == [5, 2]
        assert one.token_ids[-1] == 3
        assert len(one.token_ids) == end + 2 + 9 + 1


def test_the_image_depends_on_the_thoughts():
    """The model predicts as code the number of tokens 13 in the thoughts, which it generates only for the first
    prompt."""

    def model(tokens, *, positions, vocab_slice=None, **_):
        count = positions.sum(dim=1)
        if vocab_slice is not None:
            number = (tokens == 13).sum(dim=1).repeat_interleave(count)
            return SimpleNamespace(logits=torch.nn.functional.one_hot(number, 24) * 50.0)
        word = torch.where((tokens == 11).any(dim=1), 13, 14).repeat_interleave(count)
        return SimpleNamespace(logits=torch.nn.functional.one_hot(word, 50) * 50.0)

    settings = ImageSamplingConfig(num_image_tokens=9, num_denoising_steps=3, guidance_scale=0.0)
    prompts = [r2i_prompt([11], VOCABULARY), r2i_prompt([12], VOCABULARY)]
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    first, second = sample_thoughts_and_images(model, prompts, TEXT, settings, VOCABULARY, generators=generators)
    assert codes_of(first).tolist() == [8] * 9
    assert codes_of(second).tolist() == [0] * 9


def test_what_does_not_fit_and_missing_guidance_are_refused_before_anything_is_sampled():
    def never(*_, **__):
        raise AssertionError("sampled")

    with pytest.raises(ValueError, match=r"prompt 1 needs 13 text tokens .* more than max_text_tokens 12"):
        run(never, PROMPTS, [0, 1, 2], max_text_tokens=12)
    with pytest.raises(ValueError, match="without an unconditional prompt"):
        run(never, PROMPTS, [0, 1, 2], unconditional=None)
