"""Rewards of rollouts: one reward in a process of its own, and all of them in this process."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from rewards.base import RewardInput
from rewards.loading import load_reward
from unigrpo.config import RewardConfig, RewardTermConfig
from unigrpo.data.images import read_image
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

    @property
    def names(self) -> list[str]:
        """Names of the rewards, in the order of the config."""
        ...

    def score(self, rollouts: Sequence[Rollout]) -> tuple[list[RewardOutput], dict[str, float]]:
        """The rewards of each rollout, and metrics about the rewards' work."""
        ...

    def start(self, rollouts: Sequence[Rollout]) -> Callable[[], tuple[list[RewardOutput], dict[str, float]]]:
        """Like :meth:`score`, but returns at once; calling what it returns waits for the rewards."""
        ...

    def close(self) -> None:
        """Ends what scores."""
        ...


class RewardWorker:
    """One reward of the config."""

    def __init__(self, term: RewardTermConfig) -> None:
        self.term = term
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
            if not applies_to(self.term, prompt.task):
                continue
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
        except (TypeError, ValueError, OverflowError) as error:
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

    @property
    def names(self) -> list[str]:
        return [worker.name for worker in self._workers]

    def score(self, rollouts: Sequence[Rollout]) -> tuple[list[RewardOutput], dict[str, float]]:
        scores: dict[str, list[TermScores]] = {}
        seconds: dict[str, float] = {}
        everything = reward_inputs(rollouts)
        rows = {worker.name: applicable_rows(worker.term, rollouts) for worker in self._workers}
        for worker in self._workers:
            started, paid = time.monotonic(), rows[worker.name]
            scores[worker.name] = [worker.score([everything[i] for i in paid])] if paid else []
            seconds[worker.name] = time.monotonic() - started
        return outputs(scores, rows, len(rollouts)), work_metrics(scores, seconds)

    def start(self, rollouts: Sequence[Rollout]) -> Callable[[], tuple[list[RewardOutput], dict[str, float]]]:
        return lambda: self.score(rollouts)

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


def applies_to(term: RewardTermConfig, task: str) -> bool:
    """Whether a reward pays for a task."""
    return not term.tasks or task in term.tasks


def applicable_rows(term: RewardTermConfig, rollouts: Sequence[Rollout]) -> list[int]:
    """The rollouts that a reward pays for."""
    return [i for i, rollout in enumerate(rollouts) if applies_to(term, rollout.request.prompt.task)]


def reward_inputs(rollouts: Sequence[Rollout]) -> list[RewardInput]:
    """Rollouts as rewards see them. A picture that several prompts name is read once, and sent once.

    Raises:
        ValueError: A picture of a prompt cannot be read any more.
    """
    prompts = [rollout.request.prompt for rollout in rollouts]
    pictures = {path: read_image(path) for path in {path for prompt in prompts for path in prompt.images}}
    return [
        RewardInput(
            prompt=prompt.text,
            messages=prompt.messages,
            completion=rollout.completion,
            label=prompt.label,
            task=prompt.task,
            image=None if rollout.image is None else Image.fromarray(rollout.image),
            input_images=tuple(pictures[path] for path in prompt.images),
            metadata=dict(prompt.metadata),
        )
        for prompt, rollout in zip(prompts, rollouts, strict=True)
    ]


def _prompt_input(prompt: Prompt) -> RewardInput:
    return RewardInput(
        prompt=prompt.text,
        messages=prompt.messages,
        completion="",
        label=prompt.label,
        task=prompt.task,
        metadata=dict(prompt.metadata),
    )


def outputs(scores: dict[str, list[TermScores]], rows: dict[str, list[int]], num_samples: int) -> list[RewardOutput]:
    """The batches of each reward as one record for each sample.

    Args:
        scores: Of each reward, in order.
        rows: Samples that each reward paid for, in the order of its values.
        num_samples: Of the step.
    """
    found = [RewardOutput(parts={}, reasons={}) for _ in range(num_samples)]
    for name, batches in scores.items():
        values = [(value, batch.reason) for batch in batches for value in batch.values]
        for row, (value, reason) in zip(rows[name], values, strict=True):
            found[row].parts[name] = value
            if value is None:
                found[row].reasons[name] = reason
    return found


def work_metrics(scores: dict[str, list[TermScores]], seconds: dict[str, float]) -> dict[str, float]:
    """Seconds of each reward, and what it logged itself: the mean over its calls, by their samples."""
    metrics = {f"time/reward/{name}_seconds": value for name, value in seconds.items()}
    for name, batches in scores.items():
        for key in sorted({key for batch in batches for key in batch.logs}):
            logged = [(batch.logs[key], len(batch.values)) for batch in batches if key in batch.logs]
            metrics[f"reward/{name}/{key}"] = sum(value * size for value, size in logged) / sum(s for _, s in logged)
    return metrics
