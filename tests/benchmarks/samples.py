"""Makes random samples to score and to train on, and the same samples in rows of the published length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sizes import Size
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unigrpo.config import AlgoConfig, KLConfig, MaskRatioConfig, RunConfig, TrainConfig
from unigrpo.records import KeyedTrajectory, SampleKey, TrainSample
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.training.views import ViewSampler

MASK_RATIO = 0.5
"""Fraction of each response that a view masks."""


@dataclass(frozen=True)
class FullRows:
    """The first view of each sample, padded to the published length."""

    token_ids: Tensor
    token_mask: Tensor
    is_masked: Tensor
    is_scored: Tensor
    image_mask: Tensor


def scoring_settings(size: Size) -> ScoringSettings:
    """Returns settings with temperature 1 for text and images."""
    return ScoringSettings(
        mask_id=size.vocabulary.mask_id,
        image_slice=size.vocabulary.image_slice,
        text_temperature=1.0,
        image_temperature=1.0,
    )


def run_config(micro_batch_size: int, num_inner_updates: int = 1) -> RunConfig:
    """Returns a run without a reference."""
    return RunConfig(
        algo=AlgoConfig(
            kl=KLConfig(init_coef=0.0), mask_ratio=MaskRatioConfig(minimum=MASK_RATIO, maximum=MASK_RATIO)
        ),
        train=TrainConfig(num_inner_updates=num_inner_updates, micro_batch_size=micro_batch_size),
    )


def text_sample(size: Size, number: int) -> TrainSample:
    """Returns a sample with a prompt of text and a response."""
    prompt = size.text_tokens([size.text_prompts[number % len(size.text_prompts)]])[0]
    draws = torch.Generator().manual_seed(number)
    response = torch.randint(100, 10_000, (size.text.max_new_tokens,), generator=draws)
    return _sample(size, number, prompt, response, torch.zeros(0, dtype=torch.long))


def image_sample(size: Size, number: int) -> TrainSample:
    """Returns a sample with the prompt of an image, the image and end-of-image."""
    prompt = size.image_tokens([size.image_prompts[number % len(size.image_prompts)]])[0]
    draws = torch.Generator().manual_seed(number)
    first, stop = size.vocabulary.image_slice
    image = torch.randint(first, stop, (size.image.num_image_tokens,), generator=draws)
    return _sample(size, number, prompt, image, torch.tensor([size.vocabulary.eoi_id]))


def _sample(size: Size, number: int, prompt: Tensor, response: Tensor, end: Tensor) -> TrainSample:
    tokens = torch.cat([prompt, response, end])
    written = torch.zeros(len(tokens), dtype=torch.bool)
    written[len(prompt) : len(prompt) + len(response)] = True
    task = "t2i" if len(end) else "text"
    rollout = KeyedTrajectory(
        key=SampleKey(prompt_id=str(number), task=task, group_id=0, sample_id=number, step=0),
        policy_version=0,
        token_ids=tokens,
        response_mask=written,
        scored_mask=written,
        commit_step=written.long() - 1,
        commit_log_probs=torch.zeros(len(tokens)),
        image_mask=written if len(end) else torch.zeros_like(written),
    )
    return TrainSample(rollout=rollout, advantages=(1.0 if number % 2 else -0.5,), is_valid=True)


def full_rows(size: Size, samples: Sequence[TrainSample], device: torch.device) -> FullRows:
    """Returns the views of the first inner update, padded to the published length."""
    rollouts = [sample.rollout for sample in samples]
    views = [ViewSampler(run_config(1)).views(rollout, 0) for rollout in rollouts]

    def padded(tensors: list[Tensor]) -> Tensor:
        rows = pad_sequence(list(tensors), batch_first=True)
        return torch.nn.functional.pad(rows, (0, size.row_length - rows.shape[1])).to(device)

    return FullRows(
        token_ids=padded([r.token_ids for r in rollouts]),
        token_mask=padded([torch.ones_like(r.response_mask) for r in rollouts]),
        is_masked=padded([v.is_masked[0] for v in views]),
        is_scored=padded([v.weight[0] != 0 for v in views]),
        image_mask=padded([r.image_mask for r in rollouts]),
    )
