"""Configs of the published methods, and samples of all tasks for inner updates of a small model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from unigrpo.config import (
    TASKS,
    ActorConfig,
    AdamConfig,
    AlgoConfig,
    KLConfig,
    LikelihoodConfig,
    ObjectiveConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
)
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.records import KeyedTrajectory, SampleKey, TrainSample
from unigrpo.rng import keyed_generator
from unigrpo.training.optimizer_step import Engine, LocalEngine
from unigrpo.training.scoring import score
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.training.unigrpo import unigrpo_updates

MASK, FIRST_CODE, NUM_CODES = 1, 20, 8
SETTINGS = ScoringSettings(
    mask_id=MASK, image_slice=(FIRST_CODE, FIRST_CODE + NUM_CODES), text_temperature=0.9, image_temperature=1.1
)
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "unigrpo": ({"name": "masked_tokens"}, {}, {}),
    "exact counts": ({"name": "masked_tokens", "options": {"masking": "exact_count"}}, {}, {}),
    "maskgrpo": ({"name": "masked_tokens", "options": {"masking": "ar_like"}}, {}, {}),
    "random masking": ({"name": "random_masking"}, {"level": "view_token"}, {}),
    "diffu-grpo": ({"name": "all_masked"}, {}, {}),
    "coupled": ({"name": "coupled"}, {}, {}),
    "trace": ({"name": "trace"}, {"level": "view"}, {}),
    "trace of uncertain steps": (
        {"name": "trace", "options": {"num_views": 2, "choose": "uncertain"}}, {"level": "view_token"}, {},
    ),
    "justgrpo": ({"name": "left_to_right"}, {}, {}),
    "justgrpo fast": ({"name": "left_to_right", "options": {"top_entropy": 0.25}}, {}, {}),
    "gspo": ({"name": "masked_tokens"}, {"level": "sequence", "options": {"normalise": "weights"}}, {}),
    "espo": ({"name": "elbo_pair"}, {"level": "sequence"}, {"estimator": "k2", "level": "sequence"}),
    "gdpo": ({"name": "elbo_quadrature"}, {"level": "sequence"}, {}),
    "spg": ({"name": "block_masks", "options": {"block_length": 3}}, {"name": "sandwich"}, {}),
    "wd1": ({"name": "all_masked"}, {"name": "weighted"}, {}),
    "cispo": ({"name": "masked_tokens"}, {"name": "cispo"}, {}),
    "gmpo": ({"name": "masked_tokens"}, {"name": "geometric"}, {}),
    "stabledrl": ({"name": "elbo_pair"}, {"name": "unconditional_clip"}, {}),
}  # fmt: skip


def small_model() -> MMadaModelLM:
    """Returns a random model with codes of images, which is the same in every call."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32, "init_std": 0.3}
    return MMadaModelLM(MMadaConfig(vocab_size=FIRST_CODE + NUM_CODES, mask_token_id=MASK, **sizes))


def rollout(task: str, number: int) -> KeyedTrajectory:
    """Returns a rollout with a prompt, and depending on the task with a text of 5 tokens and 2 of padding, and 4
    codes."""
    generator = keyed_generator("rollout", task, number)

    def draw(count: int, low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    text = task != "t2i"
    image = task in ("t2i", "r2i")
    parts = [draw(3 + number % 3, 2, FIRST_CODE)]
    response, scored, is_image, steps = [False] * len(parts[0]), [False] * len(parts[0]), [False] * len(parts[0]), []
    steps = [-1] * len(parts[0])
    if text:
        parts.append(draw(7, 2, FIRST_CODE))
        response += [True] * 7
        scored += [True] * 5 + [False] * 2
        is_image += [False] * 7
        steps += [1, 0, 2, 0, 3, 4, -1]
    if text and image:
        parts.append(torch.tensor([3]))
        response, scored, is_image = [*response, False], [*scored, False], [*is_image, False]
        steps.append(-1)
    if image:
        parts.append(draw(4, FIRST_CODE, FIRST_CODE + NUM_CODES))
        response, scored, is_image = response + [True] * 4, scored + [True] * 4, is_image + [True] * 4
        steps += [6, 5, 6, 7]
    fixed = torch.tensor(steps) >= 0
    return KeyedTrajectory(
        key=SampleKey(
            prompt_id=f"{task}:{number // 2}",
            task=task,
            group_id=10 * TASKS.index(task) + number // 2,
            sample_id=100 * TASKS.index(task) + number,
            step=0,
        ),
        policy_version=0,
        token_ids=torch.cat(parts),
        response_mask=torch.tensor(response),
        scored_mask=torch.tensor(scored),
        commit_step=torch.tensor(steps),
        commit_log_probs=-torch.rand(len(steps), generator=generator) * fixed,
        commit_entropy=torch.rand(len(steps), generator=generator) * fixed,
        image_mask=torch.tensor(is_image),
    )


ROLLOUTS = [rollout(task, number) for task in TASKS for number in range(2)]
ADVANTAGES = [1.0, -1.0, 0.5, -0.5, -2.0, 2.0, 1.5, -1.5]


def run_config(method: str, **train: Any) -> RunConfig:
    """Returns the config of a published method with the given settings of `train`."""
    likelihood, objective, kl = METHODS[method]
    return RunConfig(
        actor=ActorConfig(adam=AdamConfig(lr=1e-3), lr_warmup_ratio=0.0),
        algo=AlgoConfig(
            likelihood=LikelihoodConfig(**likelihood),
            objective=ObjectiveConfig(**objective),
            kl=KLConfig(**kl),
            tasks={"t2i": TaskConfig(kl_coef=0.0, eps_clip_low_high=(0.1, 0.1))},
        ),
        train=dataclasses.replace(TrainConfig(num_inner_updates=3, micro_batch_size=32), **train),
    )


def train_samples(
    config: RunConfig,
    engine: Engine,
    rollouts: Sequence[KeyedTrajectory],
    advantages: Sequence[float] = ADVANTAGES,
    known: bool = True,
) -> list[TrainSample]:
    """Returns samples with these advantages, and with old log-probabilities if they are known."""
    scored = score(engine, config, SETTINGS, rollouts)
    nothing = torch.zeros(0)
    return [
        TrainSample(
            rollout=r,
            advantages=(a,),
            is_valid=True,
            old_log_probs=one if known else (nothing, *one[1:]),
            ref_log_probs=tuple(x - 0.1 for x in one) if config.kl_coef(r.key.task) else None,
        )
        for r, a, one in zip(rollouts, advantages, scored, strict=True)
    ]


def updated(
    model: MMadaModelLM,
    config: RunConfig,
    rollouts: Sequence[KeyedTrajectory] = ROLLOUTS,
    advantages: Sequence[float] = ADVANTAGES,
    known: bool = True,
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Returns metrics and weights after the inner updates, and restores the weights of the model."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    engine = LocalEngine(model, config.actor, 100)
    samples = train_samples(config, engine, rollouts, advantages, known)
    metrics = unigrpo_updates(engine, config, SETTINGS, samples)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(start)
    return metrics, weights
