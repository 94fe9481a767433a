"""Tests importance weights of the behaviour policy: against a loop, truncated, and as an error if they are unknown."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from training.small_updates import (
    ADVANTAGES,
    ROLLOUTS,
    SETTINGS,
    run_config,
)

from unigrpo.algorithm.objective.base import load_objective
from unigrpo.config import (
    KLConfig,
    LikelihoodConfig,
    ObjectiveConfig,
    RunConfig,
)
from unigrpo.records import TrainSample
from unigrpo.training.behaviour import check_behaviour
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import score
from unigrpo.training.unigrpo import unigrpo_updates
from unigrpo.training.views import ViewSampler


def decoupled(level="token", **rollout: Any) -> RunConfig:
    """Returns a run of trace replay whose objective weights tokens by the recorded log-probabilities of the
    sampler."""
    config = run_config("trace", num_inner_updates=1)
    objective = ObjectiveConfig(level=level, options={"max_importance": 1.5})
    algo = dataclasses.replace(config.algo, objective=objective, kl=KLConfig(init_coef=0.0))
    return dataclasses.replace(config, algo=algo, rollout=dataclasses.replace(config.rollout, **rollout))


def test_tokens_are_weighted_by_the_recorded_log_probabilities(model, monkeypatch):
    """A loop computes the weights min(1.5, old probability / behaviour probability). The ratios to the old policy are
    1."""
    config = decoupled()
    engine = LocalEngine(model, config.actor, 100)
    rollouts = ROLLOUTS[:2]  # texts, of which a step fixes one token or two
    scored = score(engine, config, SETTINGS, rollouts)
    losses = []
    monkeypatch.setattr(LocalEngine, "backward", lambda self, loss: (losses.append(loss.item()), loss.backward()))
    samples = [
        TrainSample(rollout=r, advantages=(a,), is_valid=True, old_log_probs=one)
        for r, a, one in zip(rollouts, (1.0, -0.5), scored, strict=True)
    ]
    unigrpo_updates(engine, config, SETTINGS, samples)
    expected = 0.0
    for sample, one in zip(samples, scored, strict=True):
        views = ViewSampler(config).views(sample.rollout, 0)
        places = (views.weight != 0).nonzero()[:, 1]
        recorded = sample.rollout.commit_log_probs[places]
        weights = (one[0] - recorded).exp().clamp(max=1.5)
        assert (weights == 1.5).sum() + (weights < 1).sum() > 0
        expected -= sample.advantages[0] * float(weights.mean()) / 2
    assert sum(losses) == pytest.approx(expected, rel=1e-5)


def test_older_weights_are_distinguished_from_the_policy_before_the_updates(model):
    """Only the behaviour policy is older. The ratios are 1, and the weights measure the difference of the policies."""
    config = run_config("unigrpo", num_inner_updates=1)
    objective = ObjectiveConfig(options={"max_importance": 2.0})
    algo = dataclasses.replace(config.algo, objective=objective, kl=KLConfig(init_coef=0.0))
    config = dataclasses.replace(config, algo=algo)
    engine = LocalEngine(model, config.actor, 100)
    scored = score(engine, config, SETTINGS, ROLLOUTS)

    def moved(distance):
        samples = [
            TrainSample(
                rollout=r, advantages=(a,), is_valid=True, behaviour_log_probs=tuple(x - distance for x in one)
            )
            for r, a, one in zip(ROLLOUTS, ADVANTAGES, scored, strict=True)
        ]
        start = {name: value.clone() for name, value in model.state_dict().items()}
        metrics = unigrpo_updates(LocalEngine(model, config.actor, 100), config, SETTINGS, samples)
        model.load_state_dict(start)
        return metrics

    plain = moved(0.0)
    assert moved(math.log(1.2))["grad_norm"] == pytest.approx(1.2 * plain["grad_norm"], rel=1e-4)
    assert moved(math.log(0.5))["grad_norm"] == pytest.approx(0.5 * plain["grad_norm"], rel=1e-4)
    assert moved(5.0)["grad_norm"] == pytest.approx(2.0 * plain["grad_norm"], rel=1e-4)  # truncated
    assert moved(5.0)["ratio/mean"] == 1.0


def test_weights_of_an_unknown_behaviour_are_refused():
    config = decoupled()
    objective = load_objective("clipped", config.algo.objective.arguments)
    check_behaviour(config, objective)
    fresh = dataclasses.replace(config, algo=dataclasses.replace(config.algo, likelihood=LikelihoodConfig()))
    with pytest.raises(ValueError, match=r"max_importance needs the sampler's probabilities, .* or max_importance 0"):
        check_behaviour(fresh, objective)
    stale = dataclasses.replace(fresh, rollout=dataclasses.replace(fresh.rollout, max_staleness=1, num_workers=1))
    check_behaviour(stale, objective)
