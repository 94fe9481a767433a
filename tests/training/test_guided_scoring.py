"""Tests that images with guidance are scored with the distribution from which they were sampled."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from unigrpo.config import (
    ActorConfig,
    AdamConfig,
    AlgoConfig,
    ImageSamplingConfig,
    KLConfig,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
    TrainConfig,
)
from unigrpo.data.layouts import r2i_prompt, t2i_prompt, t2i_unconditional_prompt
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.image import sample_images
from unigrpo.models.sampling.thoughts_and_image import sample_thoughts_and_images
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import KeyedTrajectory, SampleKey, TrainSample
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.passes import packed, rows_of
from unigrpo.training.scoring import score
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.training.unigrpo import unigrpo_updates
from unigrpo.training.views import ViewSampler
from unigrpo.workers.logprob_mismatch import is_comparable, logprob_gaps

VOCABULARY = Vocabulary(
    mask_id=1, begin_of_text_id=4, end_of_text_id=5, image_pad_id=6, soi_id=2, eoi_id=3, t2i_id=7, mmu_id=8,
    r2i_id=9, end_header_id=10, image_offset=26, codebook_size=24,
)  # fmt: skip
GUIDE = t2i_unconditional_prompt(VOCABULARY)
IMAGE = ImageSamplingConfig(num_image_tokens=9, num_denoising_steps=3, guidance_scale=2.5, temperature=0.8)
CONFIG = RunConfig(
    actor=ActorConfig(adam=AdamConfig(lr=1e-3), lr_warmup_ratio=0.0),
    algo=AlgoConfig(kl=KLConfig(init_coef=0.0)),
    rollout=RolloutConfig(
        text=TextSamplingConfig(max_new_tokens=8, block_length=4, num_denoising_steps=4),
        image=dataclasses.replace(IMAGE, score_guided=True),
    ),
    train=TrainConfig(num_inner_updates=2, micro_batch_size=4),
)


@pytest.fixture
def model() -> MMadaModelLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32, "init_std": 0.4}
    return MMadaModelLM(MMadaConfig(vocab_size=50, mask_token_id=1, **sizes)).eval()


def sampled(model: MMadaModelLM, task: str) -> list[KeyedTrajectory]:
    """Returns three samples with prompts of different lengths."""
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    texts = [[11, 12, 13][: n + 1] for n in range(3)]
    if task == "t2i":
        prompts = [t2i_prompt(text, VOCABULARY) for text in texts]
        samples = sample_images(model, prompts, IMAGE, VOCABULARY, generators=generators, unconditional=[GUIDE] * 3)
    else:
        prompts = [r2i_prompt([*text, 10], VOCABULARY) for text in texts]
        samples = sample_thoughts_and_images(
            model, prompts, CONFIG.rollout.text, IMAGE, VOCABULARY, generators=generators, unconditional=[GUIDE] * 3
        )
    return [
        KeyedTrajectory(
            key=SampleKey(prompt_id=f"{i}", task=task, group_id=0, sample_id=i, step=0), policy_version=0, **vars(one)
        )
        for i, one in enumerate(samples)
    ]


@pytest.mark.parametrize("task", ["t2i", "r2i"])
def test_the_guided_sampler_and_scoring_agree_at_every_step(model, task):
    rollouts = sampled(model, task)
    settings = ScoringSettings.of_run(CONFIG, VOCABULARY)
    plain = dataclasses.replace(settings, guidance_scale=0.0)
    steps = [r.commit_step.max() for r in rollouts]
    assert min(steps) >= 2
    largest = blind = 0.0
    for seed in range(12):
        gaps = logprob_gaps(model, rollouts, settings, torch.device("cpu"), seed, len(rollouts))
        largest = max(largest, *(gap.largest for gap in gaps))
        gaps = logprob_gaps(model, rollouts, plain, torch.device("cpu"), seed, len(rollouts))
        blind = max(blind, *(gap.largest for gap in gaps))
    assert largest < 2e-5
    assert blind > 0.5  # unguided scoring is another distribution
    assert is_comparable(CONFIG, task)
    image = dataclasses.replace(CONFIG.rollout.image, score_guided=False)
    assert not is_comparable(
        dataclasses.replace(CONFIG, rollout=dataclasses.replace(CONFIG.rollout, image=image)), task
    )


def test_a_score_is_that_of_two_passes_combined_by_hand(model):
    (rollout, *_) = sampled(model, "t2i")
    settings = ScoringSettings.of_run(CONFIG, VOCABULARY)
    views = ViewSampler(CONFIG).views(rollout, 0)
    (found,) = score(LocalEngine(model, CONFIG.actor, 1), CONFIG, settings, [rollout], [0])
    shown = torch.where(views.is_masked[0], VOCABULARY.mask_id, rollout.token_ids)
    start = int(rollout.image_mask.nonzero()[0])
    codes = slice(*VOCABULARY.image_slice)
    with torch.no_grad():
        given = model(shown[None]).logits[0, start : start + 9, codes]
        without = model(torch.cat([GUIDE, shown[start:]])[None]).logits[0, len(GUIDE) : len(GUIDE) + 9, codes]
    log_probs = ((without + 3.5 * (given - without)) / 0.8).log_softmax(-1)
    targets = rollout.token_ids[start : start + 9] - VOCABULARY.image_offset
    scored = views.weight[0, start : start + 9] != 0
    expected = log_probs[torch.arange(9), targets][scored]
    torch.testing.assert_close(found[0], expected, atol=2e-5, rtol=0)


def test_the_first_ratio_is_one_and_the_gradient_is_that_of_the_guided_distribution(model):
    """The samples have all tasks, so that texts and images are in the same passes."""
    rollouts = [*sampled(model, "t2i"), *sampled(model, "r2i")]
    rollouts = [dataclasses.replace(r, key=dataclasses.replace(r.key, sample_id=i)) for i, r in enumerate(rollouts)]
    settings = ScoringSettings.of_run(CONFIG, VOCABULARY)
    engine = LocalEngine(model, CONFIG.actor, 10)
    scored = score(engine, CONFIG, settings, rollouts)
    samples = [
        TrainSample(rollout=r, advantages=((-1.0) ** i,), is_valid=True, old_log_probs=one)
        for i, (r, one) in enumerate(zip(rollouts, scored, strict=True))
    ]
    metrics = unigrpo_updates(engine, CONFIG, settings, samples)
    assert metrics["ratio/first_update_deviation"] == 0.0
    assert metrics["grad_norm"] > 0


def test_a_guided_view_counts_as_two_rows(model):
    rollouts = sampled(model, "t2i")
    rows = rows_of(rollouts, [ViewSampler(CONFIG).views(r, 0) for r in rollouts])
    assert [len(one) for one in packed(rows, CONFIG)] == [2, 1]
    train = TrainConfig(micro_batch_tokens=4 * max(len(r.token_ids) for r in rollouts))
    assert [len(one) for one in packed(rows, dataclasses.replace(CONFIG, train=train))] == [2, 1]
