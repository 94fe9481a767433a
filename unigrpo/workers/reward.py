"""Rewards of rollouts: the interface that a run needs, and all rewards in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from rewards.base import RewardInput
from rewards.loading import local_options
from rewards.runtime.batch import RewardBatch
from rewards.runtime.host import RewardHost, RewardSpec
from rewards.runtime.scoring import Scores
from unigrpo import ConfigError
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.data.images import read_image
from unigrpo.records import Prompt, RewardOutput, Rollout


@runtime_checkable
class RewardScorer(Protocol):
    """Scores rollouts with all rewards of a run."""

    @property
    def names(self) -> list[str]:
        """Names of the rewards, in the order of the config."""
        ...

    def score(self, rollouts: Sequence[Rollout]) -> tuple[list[RewardOutput], dict[str, float]]:
        """Returns the rewards of each rollout, and metrics about the rewards' work."""
        ...

    def start(self, rollouts: Sequence[Rollout]) -> Callable[[], tuple[list[RewardOutput], dict[str, float]]]:
        """Starts :meth:`score` and returns at once. Calling the returned function waits for the rewards."""
        ...

    def close(self) -> None:
        """Ends the processes of the rewards."""
        ...


class LocalRewards:
    """All rewards in this process, one after the other, for tests and custom loops.

    A reward that hangs or ends its process also stops this process; see
    :class:`~unigrpo.workers.reward_pool.RewardPool` for rewards in processes of their own.
    """

    def __init__(self, config: RewardConfig, functions: Mapping[str, Callable[..., Any]] | None = None) -> None:
        """Builds and loads all rewards.

        Args:
            config: The rewards.
            functions: Functions of this process that replace the terms with their names.

        Raises:
            ValueError: A reward cannot be built, or two have the same name.
        """
        self._terms = config.terms
        given = functions or {}
        self._hosts = [
            RewardHost(reward_spec(term), owns_process=False, function=given.get(term.name)) for term in config.terms
        ]
        self._names = [host.load().name for host in self._hosts]
        check_names(self._names)

    @property
    def names(self) -> list[str]:
        return self._names

    def score(self, rollouts: Sequence[Rollout]) -> tuple[list[RewardOutput], dict[str, float]]:
        scores: dict[str, list[Scores]] = {}
        seconds: dict[str, float] = {}
        batch = reward_batch(rollouts)
        everything = batch.part(0, len(rollouts))
        rows = {name: applicable_rows(term, rollouts) for name, term in zip(self._names, self._terms, strict=True)}
        for (name, found), host in zip(rows.items(), self._hosts, strict=True):
            started = time.monotonic()
            scores[name] = [host.score([everything[i] for i in found])] if found else []
            seconds[name] = time.monotonic() - started
        return outputs(scores, rows, len(rollouts)), work_metrics(scores, seconds)

    def start(self, rollouts: Sequence[Rollout]) -> Callable[[], tuple[list[RewardOutput], dict[str, float]]]:
        return lambda: self.score(rollouts)

    def close(self) -> None:
        for host in self._hosts:
            host.close()


def reward_spec(term: RewardTermConfig) -> RewardSpec:
    """Returns the data from which a reward is built."""
    return RewardSpec(name=term.name, options=term.options, style=term.style)


def with_local_models(config: RewardConfig) -> RewardConfig:
    """Returns a config whose rewards name the paths of their models in place of names of the Hub.

    The driver asks the Hub once, and the processes of all nodes read its cache (``HF_HOME``).

    Raises:
        ConfigError: A model is neither here nor on the Hub.
    """
    terms: list[RewardTermConfig] = []
    for term in config.terms:
        try:
            terms.append(replace(term, options=local_options(term.name, term.options)))
        except ValueError as error:
            raise ConfigError(f"reward {term.name!r}: {error}") from error
    return replace(config, terms=tuple(terms))


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError if two rewards have the same name, by which metrics would mix them."""
    if len(set(names)) < len(names):
        raise ConfigError(f"reward.terms: two rewards have the same name, so metrics would mix them: {list(names)}")


def applies_to(term: RewardTermConfig, prompt: Prompt) -> bool:
    """Whether a reward scores the samples of a prompt."""
    gold = "without_gold" if prompt.label is None else "with_gold"
    return (not term.tasks or prompt.task in term.tasks) and term.only in ("", gold)


def applicable_rows(term: RewardTermConfig, rollouts: Sequence[Rollout]) -> list[int]:
    """Indices of the rollouts that a reward scores."""
    return [i for i, rollout in enumerate(rollouts) if applies_to(term, rollout.prompt)]


def reward_batch(rollouts: Sequence[Rollout]) -> RewardBatch:
    """Returns rollouts as rewards see them. Raises ValueError if an image of a prompt cannot be read any more."""
    return RewardBatch(reward_inputs(rollouts), [rollout.image for rollout in rollouts])


def reward_inputs(rollouts: Sequence[Rollout]) -> list[RewardInput]:
    """Returns rollouts as rewards see them, without generated images. An image that several prompts name is read once,
    and sent once.

    Raises:
        ValueError: An image of a prompt cannot be read any more.
    """
    prompts = [rollout.prompt for rollout in rollouts]
    input_images = {path: read_image(path) for path in {path for prompt in prompts for path in prompt.images}}
    return [
        RewardInput(
            prompt=prompt.text,
            messages=prompt.messages,
            completion=rollout.completion,
            raw_completion=rollout.raw_completion,
            completion_ids=tuple(rollout.token_ids[rollout.scored_mask].tolist()),
            prompt_ids=_prompt_ids(rollout),
            num_tokens=int((rollout.scored_mask & ~rollout.image_mask).sum()),
            is_full_length=rollout.is_full_length,
            label=prompt.label,
            task=prompt.task,
            input_images=tuple(input_images[path] for path in prompt.images),
            metadata=dict(prompt.metadata),
        )
        for prompt, rollout in zip(prompts, rollouts, strict=True)
    ]


def _prompt_ids(rollout: Rollout) -> tuple[int, ...]:
    """Returns the tokens before the response."""
    before = rollout.response_mask.cumsum(0) == 0
    return tuple(rollout.token_ids[before].tolist())


def prompt_input(prompt: Prompt) -> RewardInput:
    """Returns a prompt as a reward sees it before there is a completion."""
    return RewardInput(
        prompt=prompt.text,
        messages=prompt.messages,
        completion="",
        label=prompt.label,
        task=prompt.task,
        metadata=dict(prompt.metadata),
    )


def outputs(scores: dict[str, list[Scores]], rows: dict[str, list[int]], num_samples: int) -> list[RewardOutput]:
    """Combines the batches of each reward into one record for each sample.

    Args:
        scores: Scores of each reward, in order.
        rows: Samples that each reward scored, in the order of its values.
        num_samples: Number of samples of the step.
    """
    found = [RewardOutput(parts={}, reasons={}) for _ in range(num_samples)]
    for name, batches in scores.items():
        values = [(value, batch.reason) for batch in batches for value in batch.values]
        for row, (value, reason) in zip(rows[name], values, strict=True):
            found[row].parts[name] = value
            if value is None:
                found[row].reasons[name] = reason
    return found


def work_metrics(scores: dict[str, list[Scores]], seconds: dict[str, float]) -> dict[str, float]:
    """Returns the seconds of each reward, and what it logged itself: the mean over its calls, weighted by samples."""
    metrics = {f"time/reward/{name}_seconds": value for name, value in seconds.items()}
    for name, batches in scores.items():
        for key in sorted({key for batch in batches for key in batch.logs}):
            logged = [(batch.logs[key], len(batch.values)) for batch in batches if key in batch.logs]
            metrics[f"reward/{name}/{key}"] = sum(value * size for value, size in logged) / sum(s for _, s in logged)
    return metrics
