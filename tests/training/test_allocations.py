"""Tests that no tensor as large as the logits of whole rows over the whole vocabulary is allocated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unigrpo.config import (
    AlgoConfig,
    ImageSamplingConfig,
    KLConfig,
    MaskRatioConfig,
    RunConfig,
    TextSamplingConfig,
    TrainConfig,
)
from unigrpo.models import output_head
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.image import sample_images
from unigrpo.models.sampling.text import sample_text
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import KeyedTrajectory, SampleKey, TrainSample
from unigrpo.training.denoising import NoisedRows, denoising_update
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import ScoringSettings, score
from unigrpo.training.unigrpo import unigrpo_updates

VOCABULARY = Vocabulary(
    mask_id=37, begin_of_text_id=4, end_of_text_id=24, image_pad_id=6, soi_id=2, eoi_id=3, t2i_id=7, mmu_id=8,
    r2i_id=9, end_header_id=None, image_offset=1800, codebook_size=200,
)  # fmt: skip
NUM_IDS, NUM_CODES = 2000, 200
BATCH, PROMPT, RESPONSE = 4, 20, 24
CHUNK_ROWS = 16


class Largest(TorchDispatchMode):
    """Records the largest tensor that an operation makes, except tensors of the size of weights, such as gradients."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.num_elements = 0
        self.what = ""
        self._weights = {shape for p in model.parameters() for shape in (tuple(p.shape), tuple(p.shape)[::-1])}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            is_weight = isinstance(tensor, Tensor) and tuple(tensor.shape) in self._weights
            if isinstance(tensor, Tensor) and not is_weight and tensor.numel() > self.num_elements:
                self.num_elements, self.what = tensor.numel(), f"{func} {tuple(tensor.shape)}"
        return out


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> MMadaModelLM:
    """Returns a narrow model with many ids, whose head computes few rows at once."""
    monkeypatch.setattr(output_head, "HEAD_CHUNK_ROWS", CHUNK_ROWS)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 8, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 16}
    return MMadaModelLM(MMadaConfig(vocab_size=NUM_IDS, **sizes)).eval()


def largest(model: MMadaModelLM, call: Callable[[], Any]) -> Largest:
    with Largest(model) as seen:
        call()
    return seen


def samples(tasks: str) -> list[TrainSample]:
    """Returns one sample for each letter, t for text and i for an image."""
    draws = torch.Generator().manual_seed(2)
    found = []
    for number, letter in enumerate(tasks):
        low, high = (VOCABULARY.image_slice) if letter == "i" else (100, 1000)
        tokens = torch.randint(100, 1000, (PROMPT + RESPONSE,), generator=draws)
        tokens[PROMPT:] = torch.randint(low, high, (RESPONSE,), generator=draws)
        written = torch.arange(len(tokens)) >= PROMPT
        task = "t2i" if letter == "i" else "text"
        rollout = KeyedTrajectory(
            key=SampleKey(prompt_id=str(number), task=task, group_id=0, sample_id=number, step=0),
            policy_version=0,
            token_ids=tokens,
            response_mask=written,
            scored_mask=written,
            commit_step=written.long() - 1,
            commit_log_probs=torch.zeros(len(tokens)),
            image_mask=written if letter == "i" else torch.zeros_like(written),
        )
        found.append(
            TrainSample(
                rollout=rollout, advantages=(1.0,), is_valid=True, old_log_probs=(torch.zeros(int(written.sum())),)
            )
        )
    return found


RUN = RunConfig(
    algo=AlgoConfig(kl=KLConfig(init_coef=0.0), mask_ratio=MaskRatioConfig(minimum=1.0)),
    train=TrainConfig(num_inner_updates=1, micro_batch_size=BATCH),
)
SCORING = ScoringSettings(
    mask_id=VOCABULARY.mask_id, image_slice=VOCABULARY.image_slice, text_temperature=1.0, image_temperature=0.9
)
MOST = {"tttt": CHUNK_ROWS * NUM_IDS, "iiii": CHUNK_ROWS * NUM_CODES, "titi": CHUNK_ROWS * NUM_IDS}
"""Number of elements of the largest tensor in scoring and training: the logits of a chunk over the vocabulary or
codes."""


@pytest.mark.parametrize("tasks", MOST)
def test_scoring_and_training_allocate_only_the_logits_of_a_chunk(model: MMadaModelLM, tasks: str) -> None:
    engine = LocalEngine(model, RUN.actor, 10)
    for call in (
        lambda: score(engine, RUN, SCORING, [sample.rollout for sample in samples(tasks)]),
        lambda: unigrpo_updates(engine, RUN, SCORING, samples(tasks)),
    ):
        seen = largest(model, call)
        assert seen.num_elements == MOST[tasks], seen.what


def test_pretraining_allocates_only_the_logits_of_a_chunk(model: MMadaModelLM) -> None:
    shape = (BATCH, PROMPT + RESPONSE)
    tokens = torch.randint(100, 1000, shape, generator=torch.Generator().manual_seed(1))
    everywhere = torch.ones(shape, dtype=torch.bool)
    rows = NoisedRows(
        input_ids=torch.full_like(tokens, VOCABULARY.mask_id), token_mask=everywhere, targets=tokens,
        is_counted=everywhere, mask_ratio=torch.ones(BATCH), answer_length=torch.full((BATCH,), shape[1]),
        is_labelled_mean=False,
    )  # fmt: skip
    engine = LocalEngine(model, RUN.actor, 10)
    seen = largest(model, lambda: denoising_update(engine, {"lm": rows}, {"lm": 1.0}, BATCH))
    assert seen.num_elements == CHUNK_ROWS * NUM_IDS, seen.what


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(BATCH)]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_sampling_text_allocates_only_the_logits_of_one_block(
    model: MMadaModelLM, cache: Any, temperature: float
) -> None:
    block = 4
    settings = TextSamplingConfig(
        max_new_tokens=RESPONSE, block_length=block, num_denoising_steps=RESPONSE, cache=cache, temperature=temperature
    )
    prompts = [torch.arange(100, 100 + PROMPT - row) for row in range(BATCH)]
    seen = largest(model, lambda: sample_text(model, prompts, settings, VOCABULARY, generators=generators()))
    assert seen.num_elements == BATCH * block * NUM_IDS, seen.what


@pytest.mark.parametrize("cache", ["none", "text"])
def test_sampling_images_allocates_logits_only_over_the_image_codes(model: MMadaModelLM, cache: Any) -> None:
    settings = ImageSamplingConfig(num_image_tokens=RESPONSE, num_denoising_steps=4, guidance_scale=2.0, cache=cache)
    prompts, empty = [torch.arange(100, 100 + PROMPT - row) for row in range(BATCH)], torch.tensor([7, 2])
    seen = largest(
        model,
        lambda: sample_images(
            model, prompts, settings, VOCABULARY, generators=generators(), unconditional=[empty] * BATCH
        ),
    )
    assert seen.num_elements == BATCH * RESPONSE * NUM_CODES, seen.what
