"""Mean rewards on held-out prompts: greedy, and sampled as in training, with the same random numbers every time."""

from __future__ import annotations

import dataclasses

import torch

from unigrpo.config import RunConfig, TextSamplingConfig
from unigrpo.data.prompt_files import expand
from unigrpo.records import Prompt, Rollout
from unigrpo.training.reward_totals import RewardTotals, reward_means
from unigrpo.workers.group import WorkerGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reward import RewardScorer

EVALUATION_STEP = -1
"""Step number in the random keys of evaluations, so that all evaluations draw the same numbers."""


def evaluate(
    policy: WorkerGroup, reward: RewardScorer, prompts: list[Prompt], config: RunConfig
) -> tuple[dict[str, float], list[Rollout]]:
    """Held-out metrics and the greedy rollouts.

    Returns:
        ``<reward>_greedy`` and ``<reward>_sampled`` for each reward and for the weighted ``reward_total``;
        ``reward_total`` itself is the sampled one, or the greedy one if nothing was sampled. A reward that is missing
        for a sample is left out of the mean.
    """
    sampling = config.rollout.text
    greedy = dataclasses.replace(sampling, temperature=0.0, top_p=1.0)
    metrics, rollouts = _measure(policy, reward, prompts, 1, greedy, config, "greedy")
    kind = "greedy"
    if config.eval.n_samples_per_prompt:
        kind = "sampled"
        metrics |= _measure(policy, reward, prompts, config.eval.n_samples_per_prompt, sampling, config, kind)[0]
    metrics["reward_total"] = metrics[f"reward_total_{kind}"]
    return metrics, rollouts


def _measure(
    policy: WorkerGroup,
    reward: RewardScorer,
    prompts: list[Prompt],
    num_samples: int,
    settings: TextSamplingConfig,
    config: RunConfig,
    kind: str,
) -> tuple[dict[str, float], list[Rollout]]:
    requests = expand(prompts, num_samples, EVALUATION_STEP)
    rollouts = policy.map(PolicyWorker.generate, requests, settings)
    outputs, _ = reward.score(rollouts)
    totals, usable = RewardTotals(config.reward)(outputs, torch.tensor([r.group_id for r in requests]))
    return {f"{name}_{kind}": value for name, value in reward_means(outputs, totals, usable).items()}, rollouts
