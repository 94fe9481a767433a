"""Tests that samplers record the entropies of the distributions from which tokens were sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unigrpo.algorithm.likelihood.base import load_estimator
from unigrpo.config import ImageSamplingConfig, TextSamplingConfig
from unigrpo.data.layouts import r2i_prompt, t2i_unconditional_prompt
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.thoughts_and_image import sample_thoughts_and_images
from unigrpo.models.sampling.tokens import log_prob_and_entropy
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import KeyedTrajectory, SampleKey
from unigrpo.training.views import row_of

VOCABULARY = Vocabulary(
    mask_id=1, begin_of_text_id=4, end_of_text_id=5, image_pad_id=6, soi_id=2, eoi_id=3, t2i_id=7, mmu_id=8,
    r2i_id=9, end_header_id=10, image_offset=26, codebook_size=24,
)  # fmt: skip
TEXT = TextSamplingConfig(max_new_tokens=8, block_length=4, num_denoising_steps=4, temperature=0.7)
IMAGE = ImageSamplingConfig(num_image_tokens=9, num_denoising_steps=3, guidance_scale=1.0, temperature=1.3)


def test_the_entropy_is_that_of_the_row() -> None:
    logits = 20 * torch.randn(50, 30, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(50) % 30
    kept = logits.clone()
    log_probs, entropy = log_prob_and_entropy(logits, tokens)
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(log_probs.double(), exact.gather(1, tokens[:, None])[:, 0], rtol=0, atol=2e-5)
    torch.testing.assert_close(entropy.double(), -(exact.exp() * exact).sum(-1), rtol=0, atol=2e-5)
    assert torch.equal(logits, kept)


@pytest.fixture(scope="module")
def generated() -> tuple[MMadaModelLM, Any]:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32, "init_std": 0.4}
    model = MMadaModelLM(MMadaConfig(vocab_size=50, mask_token_id=1, **sizes)).eval()
    prompts = [r2i_prompt([11, 12, 10][-n:], VOCABULARY) for n in (1, 3)]
    guides = [t2i_unconditional_prompt(VOCABULARY)] * 2
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    samples = sample_thoughts_and_images(
        model, prompts, TEXT, IMAGE, VOCABULARY, generators=generators, unconditional=guides
    )
    return model, samples


def test_every_token_of_a_sample_has_the_entropy_of_its_step(generated: tuple[MMadaModelLM, Any]) -> None:
    model, samples = generated
    guide = t2i_unconditional_prompt(VOCABULARY)
    codes = slice(*VOCABULARY.image_slice)
    for row in samples:
        tokens, steps, is_image = row.token_ids, row.commit_step, row.image_mask
        first = int(is_image.nonzero()[0])
        assert (row.commit_entropy[steps < 0] == 0).all()
        for step in range(int(steps.max()) + 1):
            fixed = steps == step
            is_image_step = bool(is_image[fixed].any())
            # Padding that was never sampled is visible in passes of the image, and masked in passes of the thoughts.
            masked = row.response_mask & ((steps >= step) | ((steps < 0) & ~torch.tensor(is_image_step)))
            xt = torch.where(masked, VOCABULARY.mask_id, tokens)
            with torch.no_grad():
                logits = model(xt[None]).logits[0]
                if is_image_step:
                    logits = logits[:, codes]
                    without = model(torch.cat([guide, xt[first:]])[None]).logits[0, :, codes]
                    shown = torch.cat([torch.zeros(first, without.shape[1]), without[len(guide) :]])
                    logits = shown + 2 * (logits - shown)
            log_probs = (logits / (1.3 if is_image_step else 0.7)).log_softmax(-1)
            expected = -(log_probs.exp() * log_probs).sum(-1)[fixed]
            torch.testing.assert_close(row.commit_entropy[fixed], expected, rtol=0, atol=1e-4)


def test_the_fast_form_of_justgrpo_accepts_samples_of_the_sampler(generated: tuple[MMadaModelLM, Any]) -> None:
    """It scores the quarter of the tokens with the highest recorded entropy."""
    one = generated[1][0]
    sample = KeyedTrajectory(
        key=SampleKey(prompt_id="a", task="r2i", group_id=0, sample_id=0, step=0),
        policy_version=0,
        **vars(one),
    )
    row = row_of(sample)
    views = load_estimator("left_to_right", {"top_entropy": 0.25}).views(row, 0.5, torch.Generator())
    kept = (views.weight != 0).any(dim=0)
    assert row.commit_entropy is not None
    for span in (1, 2):
        own = row.scored_mask & (row.span == span)
        number = -(-int(own.sum()) // 4)
        assert int((kept & own).sum()) == number
        assert row.commit_entropy[kept & own].min() >= row.commit_entropy[own].sort(descending=True).values[number - 1]
