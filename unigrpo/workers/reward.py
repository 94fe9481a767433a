"""Rewards of rollouts: one reward in a process of its own, and all of them in this process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from rewards.base import RewardInput
from rewards.loading import load_reward
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.records import Prompt, RewardOutput, Rollout


@dataclass(frozen=True, kw_only=True)
class TermScores:
    """What one reward gave to a batch."""

    values: list[float | None]
    reason: str = ""
    """Why values are missing."""
    has_failed: bool = False
    """Whether the call failed as a whole, so that another might not."""
    logs: dict[str, float] = field(default_factory=dict[str, float])
    """Numbers of the reward's own for the metrics."""


class RewardScorer(Protocol):
    """Scores rollouts with all rewards of a run."""

    def score(self, rollouts: Sequence[Rollout]) -> tuple[list[RewardOutput], dict[str, float]]:
        """The rewards of each rollout, and metrics about the rewards' work."""
        ...

    def close(self) -> None:
        """Ends what scores."""
        ...


class RewardWorker:
    """One reward of the config."""

    def __init__(self, term: RewardTermConfig) -> None:
        self.reward = load_reward(term.name, term.options, term.style)
        self.name = self.reward.name
        self._lock = threading.Lock()

    def load(self) -> str:
        """Gets the reward ready to score. Returns its name."""
        self.reward.load()
        return self.name

    def check_prompts(self, prompts: Sequence[Prompt]) -> list[str]:
        """One message for each prompt that this reward cannot work with, such as one without a usable gold."""
        problems: list[str] = []
        for prompt in prompts:
            try:
                self.reward.check_prompt(_prompt_input(prompt))
            except ValueError as error:
                problems.append(f"{prompt.id}: reward {self.name!r} cannot use it: {error}")
        return problems

    def score(self, inputs: Sequence[RewardInput]) -> TermScores:
        """The reward of each input. Whatever the reward does wrong makes values missing, never 0."""
        try:
            values = self.reward(inputs)
        except Exception as error:  # user code may raise anything
            return self._missing(inputs, f"raised {type(error).__name__}: {error}")
        if not isinstance(values, list):
            return self._missing(inputs, f"returned {type(values).__name__} where a list belongs")
        if len(values) != len(inputs):
            return self._missing(inputs, f"returned {len(values)} values for {len(inputs)} samples")
        try:
            finite = [None if value is None or not math.isfinite(value) else float(value) for value in values]
        except TypeError as error:
            return self._missing(inputs, f"returned something that is no number: {error}")
        odd = next((value for value, known in zip(values, finite, strict=True) if known is None), 0)
        with self._lock:
            logs = self.reward.logs()
        return TermScores(values=finite, reason=f"returned {odd}" if None in finite else "", logs=logs)

    def close(self) -> None:
        """Ends what the reward started."""
        self.reward.close()

    def _missing(self, inputs: Sequence[RewardInput], reason: str) -> TermScores:
        return TermScores(values=[None] * len(inputs), reason=reason, has_failed=True)


class LocalRewards:
    """All rewards in this process, one after the other: for tests and for one's own loops."""

    def __init__(self, config: RewardConfig) -> None:
        self._workers = reward_workers(config)
        for worker in self._workers:
            worker.load()

    def score(self, rollouts: Sequence[Rollout]) -> tuple[list[RewardOutput], dict[str, float]]:
        inputs = [reward_input(rollout) for rollout in rollouts]
        scores: dict[str, list[TermScores]] = {}
        seconds: dict[str, float] = {}
        for worker in self._workers:
            started = time.monotonic()
            scores[worker.name] = [worker.score(inputs)]
            seconds[worker.name] = time.monotonic() - started
        return outputs(scores), work_metrics(scores, seconds)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def reward_workers(config: RewardConfig) -> list[RewardWorker]:
    """One worker for each term.

    Raises:
        ValueError: A reward that cannot be built, or two with one name.
    """
    workers = [RewardWorker(term) for term in config.terms]
    names = [worker.name for worker in workers]
    if len(set(names)) < len(names):
        raise ValueError(f"reward.terms: two rewards have the same name, so metrics would mix them: {names}")
    return workers


def reward_input(rollout: Rollout) -> RewardInput:
    """A rollout as rewards see it."""
    prompt = rollout.request.prompt
    return RewardInput(
        prompt=prompt.text,
        completion=rollout.completion,
        label=prompt.label,
        task=prompt.task,
        image=None if rollout.image is None else Image.fromarray(rollout.image),
        input_images=tuple(Image.open(path).convert("RGB") for path in prompt.images),
        metadata=dict(prompt.metadata),
    )


def _prompt_input(prompt: Prompt) -> RewardInput:
    return RewardInput(
        prompt=prompt.text, completion="", label=prompt.label, task=prompt.task, metadata=dict(prompt.metadata)
    )


def outputs(scores: dict[str, list[TermScores]]) -> list[RewardOutput]:
    """The batches of each reward, in order, as one record for each sample."""
    values = {name: [v for batch in batches for v in batch.values] for name, batches in scores.items()}
    reasons = {name: [batch.reason for batch in batches for _ in batch.values] for name, batches in scores.items()}
    num_samples = len(next(iter(values.values())))
    return [
        RewardOutput(
            parts={name: v[i] for name, v in values.items()},
            reasons={name: reasons[name][i] for name, v in values.items() if v[i] is None},
        )
        for i in range(num_samples)
    ]


def work_metrics(scores: dict[str, list[TermScores]], seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of each reward, and what it logged itself: the sum over its calls."""
    metrics = {f"time/reward/{name}_seconds": value for name, value in seconds.items()}
    for name, batches in scores.items():
        for key in sorted({key for batch in batches for key in batch.logs}):
            metrics[f"reward/{name}/{key}"] = sum(batch.logs.get(key, 0.0) for batch in batches)
    return metrics
