"""A reward process: every reward of the config on a batch of rollouts, checked, weighted and summed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from rewards.base import Reward, RewardInput
from rewards.loading import load_reward
from unigrpo.config import RewardConfig
from unigrpo.records import Prompt, RewardOutput, Rollout


class RewardError(RuntimeError):
    """A reward raised, or returned something that is no reward; names the reward and the sample."""


class RewardWorker:
    """All rewards of a run in one process."""

    def __init__(self, config: RewardConfig) -> None:
        self._terms = [(load_reward(term.name, term.options), term.weight) for term in config.terms]
        names = [reward.name for reward, _ in self._terms]
        if len(set(names)) < len(names):
            raise ValueError(f"reward.terms: two rewards have the same name, so metrics would mix them: {names}")

    def check_labels(self, prompts: Sequence[Prompt]) -> list[str]:
        """One message for each prompt whose gold a reward cannot grade."""
        problems: list[str] = []
        for prompt in prompts:
            for reward, _ in self._terms:
                try:
                    reward.check_label(prompt.label)
                except ValueError as error:
                    problems.append(f"{prompt.id}: reward {reward.name!r} cannot use its gold: {error}")
        return problems

    def score(self, rollouts: Sequence[Rollout]) -> list[RewardOutput]:
        """The rewards of each rollout.

        Raises:
            RewardError: A reward raised, or returned the wrong number of values, or one that is not finite.
        """
        if not rollouts:
            return []
        inputs = [_reward_input(rollout) for rollout in rollouts]
        parts = {reward.name: _values(reward, inputs, rollouts) for reward, _ in self._terms}
        return [
            RewardOutput(
                total=sum(weight * parts[reward.name][i] for reward, weight in self._terms),
                parts={name: values[i] for name, values in parts.items()},
            )
            for i in range(len(rollouts))
        ]

    def close(self) -> None:
        """Ends what the rewards started."""
        for reward, _ in self._terms:
            reward.close()


def _reward_input(rollout: Rollout) -> RewardInput:
    prompt = rollout.request.prompt
    return RewardInput(
        prompt=prompt.text,
        completion=rollout.completion,
        label=prompt.label,
        task=prompt.task,
        image=None if rollout.image is None else Image.fromarray(rollout.image),
        input_images=tuple(Image.open(path) for path in prompt.images),
        metadata=dict(prompt.metadata),
    )


def _values(reward: Reward, inputs: list[RewardInput], rollouts: Sequence[Rollout]) -> list[float]:
    """Calls one reward and checks what it returns."""
    first = rollouts[0].request.prompt.id
    try:
        values = reward(inputs)
    except Exception as error:  # user code may raise anything; the run must end with its name
        raise RewardError(
            f"reward {reward.name!r} raised {type(error).__name__} on the batch of {len(inputs)} samples that starts "
            f"with {first}: {error}"
        ) from error
    if len(values) != len(inputs):
        raise RewardError(
            f"reward {reward.name!r} returned {len(values)} values for {len(inputs)} samples (first: {first}); "
            "it must return one for each"
        )
    for value, rollout in zip(values, rollouts, strict=True):
        if value is None or not math.isfinite(value):
            raise RewardError(
                f"reward {reward.name!r} returned {value} for sample {rollout.request.sample_id} of prompt "
                f"{rollout.request.prompt.id}; completion: {rollout.completion[:200]!r}"
            )
    return [float(value) for value in values if value is not None]
