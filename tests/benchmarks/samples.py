"""Random samples to score and to train on, and the same samples in rows of the published length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sizes import Size
from torch import Tensor

from unigrpo.config import AlgoConfig, KLConfig, RunConfig, TrainConfig
from unigrpo.data.collate import ScoringBatch, scoring_batch
from unigrpo.records import MaskPlan, Prompt, Rollout, SampleRequest, SequenceMasks, TrainSample
from unigrpo.training.scoring import ScoringSettings

MASK_RATIO = 0.5
"""Share of each response that a plan hides: the mean over the inner updates."""


def scoring_settings(size: Size) -> ScoringSettings:
    """Temperature 1 everywhere."""
    return ScoringSettings(
        mask_id=size.vocabulary.mask_id,
        image_slice=size.vocabulary.image_slice,
        text_temperature=1.0,
        image_temperature=1.0,
    )


def run_config(micro_batch_size: int, num_inner_updates: int = 1) -> RunConfig:
    """A run without a reference."""
    return RunConfig(
        algo=AlgoConfig(kl=KLConfig(init_coef=0.0)),
        train=TrainConfig(num_inner_updates=num_inner_updates, micro_batch_size=micro_batch_size),
    )


def text_sample(size: Size, number: int, num_updates: int = 1) -> TrainSample:
    """A prompt of text and a response."""
    prompt = size.text_tokens([size.text_prompts[number % len(size.text_prompts)]])[0]
    draws = torch.Generator().manual_seed(number)
    response = torch.randint(100, 10_000, (size.text.max_new_tokens,), generator=draws)
    return _sample(size, number, prompt, response, torch.zeros(0, dtype=torch.long), num_updates)


def image_sample(size: Size, number: int, num_updates: int = 1) -> TrainSample:
    """A prompt of an image, the image and end-of-image."""
    prompt = size.image_tokens([size.image_prompts[number % len(size.image_prompts)]])[0]
    draws = torch.Generator().manual_seed(number)
    first, stop = size.vocabulary.image_slice
    image = torch.randint(first, stop, (size.image.num_image_tokens,), generator=draws)
    return _sample(size, number, prompt, image, torch.tensor([size.vocabulary.eoi_id]), num_updates)


def _sample(size: Size, number: int, prompt: Tensor, response: Tensor, end: Tensor, num_updates: int) -> TrainSample:
    tokens = torch.cat([prompt, response, end])
    written = torch.zeros(len(tokens), dtype=torch.bool)
    written[len(prompt) : len(prompt) + len(response)] = True
    draws = torch.Generator().manual_seed(1000 + number)
    hidden = ((torch.rand(len(tokens), generator=draws) < MASK_RATIO) & written).expand(num_updates, 1, -1)
    task = "t2i" if len(end) else "text"
    rollout = Rollout(
        request=SampleRequest(prompt=Prompt(id=str(number), text="", task=task), group_id=0, sample_id=number, step=0),
        policy_version=0,
        token_ids=tokens,
        response_mask=written,
        scored_mask=written,
        completion="",
        commit_step=written.long() - 1,
        commit_log_probs=torch.zeros(len(tokens)),
        image_mask=written if len(end) else torch.zeros_like(written),
    )
    return TrainSample(
        rollout=rollout,
        advantage=1.0 if number % 2 else -0.5,
        is_valid=True,
        mask_ratios=torch.full((num_updates,), MASK_RATIO),
        is_masked=hidden,
        weight=hidden.float(),
    )


def full_rows(size: Size, samples: Sequence[TrainSample], device: torch.device) -> ScoringBatch:
    """Rows of the published length, whatever they hold; the first inner update."""
    batch = scoring_batch(samples, 0, device)
    room = (0, size.row_length - batch.token_ids.shape[1])

    def padded(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, room)

    return ScoringBatch(
        token_ids=padded(batch.token_ids),
        masks=SequenceMasks(
            token_mask=padded(batch.masks.token_mask),
            response_mask=padded(batch.masks.response_mask),
            scored_mask=padded(batch.masks.scored_mask),
        ),
        plan=MaskPlan(is_masked=padded(batch.plan.is_masked), weight=padded(batch.plan.weight)),
        image_mask=padded(batch.image_mask),
    )
