"""The prompts of every step, as a function of the step alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from unigrpo import DataError
from unigrpo.config import DataConfig, prompt_files
from unigrpo.data.corpora.order import Mixture, shuffled_index
from unigrpo.records import Prompt, Rollout, SampleRequest

Named = TypeVar("Named", SampleRequest, Rollout)
"""A sample to generate, or a generated one."""


def prompt_weights(data: DataConfig) -> dict[str, float]:
    """Returns the sampling weight of each data set by its name; empty if every prompt is equally likely."""
    files = prompt_files(data.prompt_dataset)
    if data.prompt_probs:
        return {file.path: weight for file, weight in zip(files, data.prompt_probs, strict=True)}
    return {file.path: file.weight for file in files if file.weight is not None}


def check_weights(prompts: Sequence[Prompt], weights: Mapping[str, float]) -> None:
    """Raises ValueError if a data set with a sampling weight has no prompt."""
    empty = [name for name in weights if not any(prompt.dataset == name for prompt in prompts)]
    if empty:
        raise DataError(
            f"{empty[0]} has a sampling weight (data.prompt_probs or weight), but no prompt to train on; see "
            "data.tasks"
        )


class PromptStream:
    """The prompts of every step: consecutive shuffled epochs, as a function of the step alone.

    Resuming at a step therefore needs no saved position.
    """

    def __init__(
        self, prompts: list[Prompt], batch_size: int, num_samples: int, seed: int, probs: Mapping[str, float] = {}
    ) -> None:
        """Prepares the order of the prompts.

        Args:
            prompts: All prompts.
            batch_size: Number of prompts of one step.
            num_samples: Number of samples of each prompt.
            seed: Seed of the shuffles.
            probs: Sampling weight of each data set, which then has its own epochs; without them, all prompts are one
                set.

        Raises:
            ValueError: A data set with a sampling weight has no prompt.
        """
        check_weights(prompts, probs)
        self._mixture = Mixture(probs, seed) if probs else None
        self._prompts = {name: [p for p in prompts if p.dataset == name] for name in probs} or {"": prompts}
        self._batch_size = batch_size
        self._num_samples = num_samples
        self._seed = seed

    def requests(self, step: int) -> list[SampleRequest]:
        """Returns the samples to generate in a step; those of one prompt are adjacent."""
        first = step * self._batch_size
        batch = [self._at(position) for position in range(first, first + self._batch_size)]
        return repeat_prompts(batch, self._num_samples, step)

    def _at(self, position: int) -> Prompt:
        name, place = self._mixture.source_at(position) if self._mixture else ("", position)
        prompts = self._prompts[name]
        return prompts[shuffled_index(place, len(prompts), self._seed, "prompt order", name)]


def balance_across_ranks(samples: list[Named], num_ranks: int) -> list[Named]:
    """Orders samples so that equal contiguous parts hold the same number of each task, with groups kept together.

    An image takes many times as long as a text, so the other ranks would wait for a rank with more images.
    """
    if num_ranks == 1:
        return samples
    groups: dict[int, list[Named]] = {}
    for sample in samples:
        groups.setdefault(sample.key.group_id, []).append(sample)
    by_task = sorted(groups.values(), key=lambda group: group[0].key.task)
    return [sample for rank in range(num_ranks) for group in by_task[rank::num_ranks] for sample in group]


def repeat_prompts(prompts: list[Prompt], num_samples: int, step: int) -> list[SampleRequest]:
    """Returns ``num_samples`` requests for each prompt; those of one prompt are adjacent."""
    return [
        SampleRequest(prompt=prompt, group_id=group, sample_id=group * num_samples + sample, step=step)
        for group, prompt in enumerate(prompts)
        for sample in range(num_samples)
    ]
