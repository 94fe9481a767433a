"""Tests that every estimator and objective trains equally on two ranks and in one process, with ZeRO-2 and ZeRO-3."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest
import torch
from ray import cloudpickle
from torch import Tensor
from training import small_updates
from training.small_updates import (
    ADVANTAGES,
    METHODS,
    ROLLOUTS,
    SETTINGS,
    train_samples,
)
from training.small_updates import run_config as method_config

from unigrpo.config import AdamConfig, DeepSpeedConfig, RunConfig
from unigrpo.distributed.actors import ModelActor
from unigrpo.distributed.engine import StrategyEngine
from unigrpo.distributed.placement import model_group, place
from unigrpo.distributed.strategy import UniGRPOStrategy, make_strategy
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.records import KeyedTrajectory
from unigrpo.training.optimizer_step import Engine, LocalEngine
from unigrpo.training.unigrpo import unigrpo_updates
from unigrpo.workers.group import WorkerGroup

pytestmark = [pytest.mark.ray, pytest.mark.slow]
for module in (sys.modules[__name__], small_updates):
    cloudpickle.register_pickle_by_value(module)  # the workers cannot import a test file

ITEMS = list(zip(ROLLOUTS, ADVANTAGES, strict=True))
"""There are two samples of each task, with texts on the first rank and images on the second."""
Stage = Literal[2, 3]


def run_config(method: str, stage: Stage = 2, dtype: Literal["fp32", "bf16"] = "fp32") -> RunConfig:
    config = method_config(method, num_inner_updates=2, micro_batch_size=2)
    # With a large epsilon, Adam does not amplify the rounding of small gradients.
    actor = dataclasses.replace(config.actor, num_gpus_per_node=2, adam=AdamConfig(lr=1e-2, eps=1e-3))
    return dataclasses.replace(config, actor=actor, ds=DeepSpeedConfig(zero_stage=stage, param_dtype=dtype))


def small_model(dtype: Literal["fp32", "bf16"], recomputes: bool = False) -> MMadaModelLM:
    model = small_updates.small_model()
    if recomputes:
        model.gradient_checkpointing_enable()
    return model if dtype == "fp32" else model.bfloat16()


def trained(engine: Engine, config: RunConfig, items: Sequence[tuple[KeyedTrajectory, float]]) -> dict[str, float]:
    """Returns the metrics of two inner updates."""
    samples = train_samples(config, engine, [r for r, _ in items], [a for _, a in items])
    return unigrpo_updates(engine, config, SETTINGS, samples)


class MethodTrainer:
    """A worker that makes a new engine for every run in one process group."""

    def train(
        self, items: Sequence[tuple[KeyedTrajectory, float]], config: RunConfig, recomputes: bool = False
    ) -> list[tuple[dict[str, float], list[Tensor]]]:
        """Returns the metrics, and the weights after the updates."""
        strategy = make_strategy(config)
        strategy.setup_distributed()
        engine = StrategyEngine(small_model(config.ds.param_dtype, recomputes), config, strategy)
        metrics = trained(engine, config, items)
        return [(metrics, [weight.clone() for weight in engine.trained_weights()])]


class MethodActor(ModelActor):
    def build(self, config: RunConfig, strategy: UniGRPOStrategy) -> MethodTrainer:
        return MethodTrainer()


@pytest.fixture(scope="module")
def group(cluster: None) -> Iterator[WorkerGroup]:
    config = run_config("unigrpo")
    made = model_group("policy", MethodActor, config, place(config.actor.num_ranks), gpu_fraction=1.0)
    made.initialize(config)
    yield made
    made.close()


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_train_as_one_process(group: WorkerGroup, method: str) -> None:
    model = small_model("fp32")
    expected = trained(LocalEngine(model, run_config(method).actor, 100), run_config(method), ITEMS)
    assert expected["grad_norm"] > 0
    for stage in (2, 3):
        metrics, weights = group.map(MethodTrainer.train, ITEMS, run_config(method, stage))[0]
        own = ("ratio/max", "ratio/first_update_deviation")  # metrics of each rank
        shared = {name: value for name, value in expected.items() if name not in own}
        assert {n: v for n, v in metrics.items() if n in shared} == pytest.approx(shared, rel=1e-3, abs=1e-5), stage
        for found, parameter in zip(weights, model.parameters(), strict=True):
            torch.testing.assert_close(found, parameter.data, rtol=0, atol=5e-5)


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_train_as_one_process_in_bfloat16_with_checkpointing(group: WorkerGroup, stage: Stage) -> None:
    """The gradient of two ranks equals that of one process up to the precision of bfloat16."""
    config = run_config("espo", stage, "bf16")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, num_inner_updates=1))
    expected = trained(LocalEngine(small_model("bf16"), config.actor, 100), config, ITEMS)
    metrics, _ = group.map(MethodTrainer.train, ITEMS, config, True)[0]
    assert metrics["ratio/first_update_deviation"] == 0.0
    for name in ("grad_norm", "loss/policy", "loss/kl"):
        assert metrics[name] == pytest.approx(expected[name], rel=0.03), name
