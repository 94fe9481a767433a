"""Mean rewards on held-out prompts: greedy, and sampled as in training, with the same random numbers every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from unigrpo.config import ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.data.prompt_stream import repeat_prompts
from unigrpo.evaluation.yes_no import yes_no_metrics
from unigrpo.records import Prompt, RewardOutput, Rollout
from unigrpo.training.reward_aggregation import RewardAggregator
from unigrpo.training.reward_metrics import reward_means
from unigrpo.workers.group import WorkerGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reward import RewardScorer

EVALUATION_STEP = -1
"""Step number in the random keys of evaluations, so that all evaluations use the same random numbers."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Results of one way of sampling."""

    metrics: dict[str, float]
    rollouts: list[Rollout]
    outputs: list[RewardOutput]


def evaluate(
    policy: WorkerGroup, reward: RewardScorer, prompts: list[Prompt], config: RunConfig
) -> tuple[dict[str, float], list[Rollout]]:
    """Returns held-out metrics and the greedy rollouts.

    Returns:
        The metrics of :func:`measure_all`, and ``reward_total``: the sampled one, or the greedy one if nothing was
        sampled.
    """
    measured = measure_all(policy, reward, prompts, config)
    metrics = {name: value for one in measured.values() for name, value in one.metrics.items()}
    metrics["reward_total"] = metrics[f"reward_total_{list(measured)[-1]}"]
    return metrics, measured["greedy"].rollouts


def measure_all(
    policy: WorkerGroup, reward: RewardScorer, prompts: list[Prompt], config: RunConfig
) -> dict[str, Measured]:
    """Measures `greedy` samples, and `sampled` ones if the config asks for them.

    The metrics are ``<reward>_greedy`` and ``<reward>_sampled`` for each reward and for the weighted ``reward_total``.
    With several tasks each also has a metric by task, such as ``math_answer_sampled/mmu``. Yes-or-no questions add
    those of :func:`~unigrpo.evaluation.yes_no.yes_no_metrics`. A reward that is missing for a sample is left out of
    the mean.
    """
    text, image = config.rollout.text, config.rollout.image
    greedy = (
        replace(text, temperature=0.0, top_p=1.0),
        replace(image, temperature=0.0, remasking_temperature=0.0),
    )
    measured = {"greedy": _measure(policy, reward, prompts, 1, greedy, config, "greedy")}
    if num_samples := config.eval.n_samples_per_prompt:
        measured["sampled"] = _measure(policy, reward, prompts, num_samples, (text, image), config, "sampled")
    return measured


def _measure(
    policy: WorkerGroup,
    reward: RewardScorer,
    prompts: list[Prompt],
    num_samples: int,
    settings: tuple[TextSamplingConfig, ImageSamplingConfig],
    config: RunConfig,
    kind: str,
) -> Measured:
    requests = repeat_prompts(prompts, num_samples, EVALUATION_STEP)
    rollouts = policy.map(PolicyWorker.generate, requests, *settings)
    outputs, _ = reward.score(rollouts)
    totals, valid = RewardAggregator(config.reward, reward.names).aggregate(
        outputs, torch.tensor([r.group_id for r in requests])
    )
    metrics = {f"{name}_{kind}": value for name, value in reward_means(outputs, totals, valid).items()}
    answered = yes_no_metrics([request.prompt for request in requests], outputs)
    metrics |= {f"{name}_{kind}": value for name, value in answered.items()}
    tasks = [request.prompt.task for request in requests]
    if len(set(tasks)) > 1:
        for task in dict.fromkeys(tasks):
            rows = torch.tensor([other == task for other in tasks])
            means = reward_means(_chosen(outputs, rows), totals[rows], valid[rows])
            metrics |= {f"{name}_{kind}/{task}": value for name, value in means.items()}
    return Measured(metrics=metrics, rollouts=rollouts, outputs=outputs)


def _chosen(outputs: Sequence[RewardOutput], rows: torch.Tensor) -> list[RewardOutput]:
    return [output for output, chosen in zip(outputs, rows.tolist(), strict=True) if chosen]
