"""Mean rewards on held-out prompts: greedy, and sampled as in training, with the same random numbers every time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from unigrpo.config import RunConfig, TextSamplingConfig
from unigrpo.data.prompt_files import expand
from unigrpo.records import Prompt, RewardOutput, Rollout
from unigrpo.workers.group import WorkerGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reward import RewardWorker

EVALUATION_STEP = -1
"""Step number in the random keys of evaluations, so that all evaluations draw the same numbers."""


def evaluate(
    policy: WorkerGroup, reward: WorkerGroup, prompts: list[Prompt], config: RunConfig
) -> tuple[dict[str, float], list[Rollout]]:
    """Held-out metrics and the greedy rollouts.

    Returns:
        ``<reward>_greedy`` and ``<reward>_sampled`` for each reward and for the weighted ``reward_total``;
        ``reward_total`` itself is the sampled one, or the greedy one if nothing was sampled.
    """
    sampling = config.rollout.text
    greedy = dataclasses.replace(sampling, temperature=0.0, top_p=1.0)
    metrics, rollouts = _measure(policy, reward, prompts, 1, greedy, "greedy")
    kind = "greedy"
    if config.eval.n_samples_per_prompt:
        kind = "sampled"
        metrics |= _measure(policy, reward, prompts, config.eval.n_samples_per_prompt, sampling, kind)[0]
    metrics["reward_total"] = metrics[f"reward_total_{kind}"]
    return metrics, rollouts


def _measure(
    policy: WorkerGroup,
    reward: WorkerGroup,
    prompts: list[Prompt],
    num_samples: int,
    settings: TextSamplingConfig,
    kind: str,
) -> tuple[dict[str, float], list[Rollout]]:
    requests = expand(prompts, num_samples, EVALUATION_STEP)
    rollouts = policy.map(PolicyWorker.generate, requests, settings)
    outputs = reward.map(RewardWorker.score, rollouts)
    means = reward_means(outputs)
    return {f"{name}_{kind}": value for name, value in means.items()}, rollouts


def reward_means(outputs: Sequence[RewardOutput]) -> dict[str, float]:
    """Mean of each reward, and ``reward_total`` of the weighted sums."""
    means = {name: sum(o.parts[name] for o in outputs) / len(outputs) for name in outputs[0].parts}
    return means | {"reward_total": sum(o.total for o in outputs) / len(outputs)}
