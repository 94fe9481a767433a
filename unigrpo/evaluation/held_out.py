"""Mean rewards of greedy and random samples for held-out prompts, with the same random numbers in every evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from unigrpo.config import ImageSamplingConfig, RunConfig, TextSamplingConfig
from unigrpo.data.prompt_stream import balance_across_ranks, repeat_prompts
from unigrpo.evaluation.mme import mme_metrics
from unigrpo.evaluation.yes_no import yes_no_metrics
from unigrpo.records import Prompt, RewardOutput, Rollout, SampleRequest
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
    totals: list[float | None]
    """Weighted sum of the rewards of each rollout; None if a required reward is missing."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Results of an evaluation of the policy on the held-out prompts."""

    metrics: dict[str, float]
    """The metrics of :func:`summarize`, and ``reward_total``, which is the sampled total, or the greedy one without
    samples."""
    rollouts: list[Rollout]
    """The greedy rollouts."""
    rewards: list[dict[str, Any]]
    """Total and rewards of each greedy rollout, as :func:`reward_row` returns them."""
    scores: list[dict[str, Any]]
    """One row per prompt with ``prompt_id``, ``task`` and ``scores``. The scores are each reward and the total under
    the names of the metrics, averaged over the samples of the prompt that have the reward."""


def evaluate(
    policy: WorkerGroup, reward: RewardScorer, prompts: list[Prompt], config: RunConfig, version: int = 0
) -> Evaluation:
    """Evaluates the policy on held-out prompts.

    Args:
        policy: Workers of the policy.
        reward: The rewards.
        prompts: Held-out prompts.
        config: Config of the run.
        version: Number of optimizer steps of the policy.
    """
    measured = measure_all(policy, reward, prompts, config, version)
    metrics = {name: value for one in measured.values() for name, value in one.metrics.items()}
    metrics["reward_total"] = metrics[f"reward_total_{list(measured)[-1]}"]
    greedy = measured["greedy"]
    return Evaluation(
        metrics=metrics,
        rollouts=greedy.rollouts,
        rewards=[reward_row(total, output) for total, output in zip(greedy.totals, greedy.outputs, strict=True)],
        scores=prompt_scores(measured, prompts),
    )


def reward_row(total: float | None, output: RewardOutput) -> dict[str, Any]:
    """Returns two columns of a written sample: `reward` is the weighted sum, and `rewards` is each reward by name."""
    return {"reward": total, "rewards": output.parts}


def prompt_scores(measured: Mapping[str, Measured], prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Returns the rows of :attr:`Evaluation.scores`."""
    rows: list[dict[str, Any]] = [{"prompt_id": p.id, "task": p.task, "scores": {}} for p in prompts]
    for kind, one in measured.items():
        values: list[dict[str, list[float]]] = [{} for _ in prompts]
        parts = zip(one.rollouts, one.outputs, one.totals, strict=True)
        for rollout, output, total in parts:
            own = values[rollout.key.group_id]
            for name, value in {**output.parts, "reward_total": total}.items():
                if value is not None:
                    own.setdefault(f"{name}_{kind}", []).append(value)
        for row, own in zip(rows, values, strict=True):
            row["scores"] |= {name: sum(found) / len(found) for name, found in own.items()}
    return rows


def measure_all(
    policy: WorkerGroup, reward: RewardScorer, prompts: list[Prompt], config: RunConfig, version: int
) -> dict[str, Measured]:
    """Evaluates greedy samples, and random samples if the config asks for them.

    Args:
        policy: Workers of the policy.
        reward: The rewards.
        prompts: Held-out prompts in the form of the protocol.
        config: Config of the run, whose protocol defines the sampling.
        version: Number of optimizer steps of the policy.

    Returns:
        Metrics of :func:`summarize`, and the rollouts and rewards by kind, `greedy` or `sampled`.
    """
    measured: dict[str, Measured] = {}
    for way in ways_of_sampling(config):
        requests = repeat_prompts(prompts, way.num_samples, EVALUATION_STEP)
        rollouts = generate_balanced(policy, requests, version, (way.text, way.image))
        outputs, _ = reward.score(rollouts)
        metrics, totals = summarize(requests, outputs, config, reward.names, way.name)
        measured[way.name] = Measured(metrics=metrics, rollouts=rollouts, outputs=outputs, totals=totals)
    return measured


@dataclass(frozen=True, kw_only=True)
class WayOfSampling:
    """One way of sampling the answers to held-out prompts."""

    name: str
    """`greedy` or `sampled`."""
    num_samples: int
    """Number of samples of a prompt."""
    text: TextSamplingConfig
    image: ImageSamplingConfig


def ways_of_sampling(config: RunConfig) -> list[WayOfSampling]:
    """Returns the settings of greedy sampling and, if the config asks for samples, those of random sampling.

    Lengths and steps are those of the run's protocol. The protocols of papers define no greedy image sampling, so that
    under them only the texts are greedy.
    """
    text, image = config.protocol.text, config.protocol.image
    is_of_a_paper = config.eval.preset != "training"
    greedy = WayOfSampling(
        name="greedy",
        num_samples=1,
        text=replace(text, temperature=0.0, top_p=1.0),
        image=image if is_of_a_paper else replace(image, temperature=0.0, remasking_temperature=0.0),
    )
    if not config.eval.n_samples_per_prompt:
        return [greedy]
    return [
        greedy,
        WayOfSampling(name="sampled", num_samples=config.eval.n_samples_per_prompt, text=text, image=image),
    ]


def summarize(
    requests: Sequence[SampleRequest],
    outputs: Sequence[RewardOutput],
    config: RunConfig,
    reward_names: Sequence[str],
    kind: str,
) -> tuple[dict[str, float], list[float | None]]:
    """Returns the metrics of samples of one kind, and the total reward of each sample, or None where it is missing.

    The metrics are ``<reward>_<kind>`` for each reward and for the weighted ``reward_total``. With several tasks, each
    task has its own metrics too, such as ``math_answer_sampled/mmu``. Yes-or-no questions add the metrics of
    :func:`~unigrpo.evaluation.yes_no.yes_no_metrics`, and questions of MME those of
    :func:`~unigrpo.evaluation.mme.mme_metrics`. A mean leaves out the samples whose reward is missing.

    Args:
        requests: Request of each sample.
        outputs: Rewards of each sample.
        config: Config of the run.
        reward_names: Names of the rewards, in the order of the config.
        kind: `greedy` or `sampled`.
    """
    totals, valid = RewardAggregator(config.reward, reward_names).aggregate(
        outputs, torch.tensor([r.group_id for r in requests])
    )
    metrics = {f"{name}_{kind}": value for name, value in reward_means(outputs, totals, valid).items()}
    prompts = [request.prompt for request in requests]
    answered = yes_no_metrics(prompts, outputs) | mme_metrics(prompts, outputs)
    metrics |= {f"{name}_{kind}": value for name, value in answered.items()}
    tasks = [request.prompt.task for request in requests]
    if len(set(tasks)) > 1:
        for task in dict.fromkeys(tasks):
            rows = torch.tensor([other == task for other in tasks])
            means = reward_means(_chosen(outputs, rows), totals[rows], valid[rows])
            metrics |= {f"{name}_{kind}/{task}": value for name, value in means.items()}
    sums = [total if is_valid else None for total, is_valid in zip(totals.tolist(), valid.tolist(), strict=True)]
    return metrics, sums


def generate_balanced(
    policy: WorkerGroup,
    requests: Sequence[SampleRequest],
    version: int,
    settings: tuple[TextSamplingConfig, ImageSamplingConfig],
) -> list[Rollout]:
    """Returns one rollout for each request, in their order. Every worker generates an equal number of each task."""
    dealt = balance_across_ranks(list(requests), policy.size)
    generated = policy.map(PolicyWorker.generate, dealt, version, *settings)
    rollouts = generated.rollouts([request.prompt for request in dealt])
    by_sample = {rollout.key.sample_id: rollout for rollout in rollouts}
    return [by_sample[request.sample_id] for request in requests]


def _chosen(outputs: Sequence[RewardOutput], rows: torch.Tensor) -> list[RewardOutput]:
    return [output for output, chosen in zip(outputs, rows.tolist(), strict=True) if chosen]
