"""Tests inner updates of a small model: every method on every task, with equal results for any division into
passes."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from training.small_updates import (
    METHODS,
    ROLLOUTS,
    SETTINGS,
    rollout,
    run_config,
    train_samples,
    updated,
)
from training.thread_ranks import ranks_in_threads

from unigrpo import plugins
from unigrpo.algorithm.likelihood import base as estimator_files
from unigrpo.algorithm.objective import base as objective_files
from unigrpo.batches import WholeGroups
from unigrpo.config import (
    TASKS,
    AlgoConfig,
    KLConfig,
    LikelihoodConfig,
    MaskRatioConfig,
    TaskConfig,
)
from unigrpo.records import TrainSample
from unigrpo.training.optimizer_step import LocalEngine, NonFiniteLossError
from unigrpo.training.scoring import score
from unigrpo.training.unigrpo import unigrpo_updates
from unigrpo.training.views import ViewSampler, row_of, spans_of


def test_every_estimator_and_objective_is_among_the_methods():
    """These tests, those of a step of all tasks and those on two ranks run every method."""
    estimators = {likelihood["name"] for likelihood, _, _ in METHODS.values()}
    objectives = {objective.get("name", "clipped") for _, objective, _ in METHODS.values()}
    assert sorted(estimators) == plugins.available(estimator_files.PACKAGE)
    assert sorted(objectives) == plugins.available(objective_files.PACKAGE)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_every_task_equally_with_any_passes(model, method):
    """Passes of one row split the units of most methods, whose gradient then needs two passes."""
    model = model.double()
    whole, weights = updated(model, run_config(method, num_inner_updates=2))
    assert whole["grad_norm"] > 0
    assert whole["loss/kl"] > 0
    for task in TASKS:
        assert (f"kl/reference_nats/{task}" in whole) == (task != "t2i")
    cuts = [{"micro_batch_size": 1}, {"micro_batch_tokens": 30}]
    for cut in cuts if method in ("unigrpo", "espo") else cuts[:1]:
        metrics, again = updated(model, run_config(method, num_inner_updates=2, **cut))
        # The log-probabilities are float32 for weights of any type.
        assert metrics == pytest.approx(whole, rel=1e-4, abs=1e-6)
        for name, value in weights.items():
            torch.testing.assert_close(again[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_different_numbers_of_groups_on_ranks_train_as_in_one_process(model, num_ranks):
    """A group filter may keep three groups, so that one rank has one group more than the others, or none."""
    config = run_config("stabledrl", num_inner_updates=2, micro_batch_size=2)
    config = dataclasses.replace(config, algo=dataclasses.replace(config.algo, tasks={}, kl=KLConfig(init_coef=0.0)))
    rollouts, advantages = [rollout("text", number) for number in range(6)], [1.0, -0.5, 0.2, -0.7, -2.0, 2.0]
    # The old policy differs as after some updates, so that ratios differ and some are clipped.
    shifts = [0.3, -2.0, 1.0, 0.1, -0.2, 3.0]
    scored = score(LocalEngine(model, config.actor, 100), config, SETTINGS, rollouts)
    samples = [
        TrainSample(rollout=r, advantages=(a,), is_valid=True, old_log_probs=tuple(x + shift for x in one))
        for r, a, one, shift in zip(rollouts, advantages, scored, shifts, strict=True)
    ]
    ranks = ranks_in_threads(model, config.actor, num_ranks)
    expected = unigrpo_updates(LocalEngine(model, config.actor, 100), config, SETTINGS, samples)
    assert 0 < expected["ratio/clipped_fraction"] < 1
    parts = WholeGroups.of(samples).split(num_ranks)
    assert sorted(len(part) for part in parts) == ([2, 4] if num_ranks == 2 else [0, 2, 2, 2])
    with ThreadPoolExecutor(num_ranks) as threads:
        found = list(
            threads.map(lambda rank, part: unigrpo_updates(rank, config, SETTINGS, part.samples()), ranks, parts)
        )
    own = ("ratio/max", "ratio/first_update_deviation")  # metrics of each rank
    for rank, metrics in zip(ranks, found, strict=True):
        shared = {name: value for name, value in expected.items() if name not in own}
        assert {n: v for n, v in metrics.items() if n not in own} == pytest.approx(shared, rel=1e-4, abs=1e-6)
        for weight, right in zip(rank.model.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(weight, right, rtol=0, atol=1e-5)


def test_the_first_update_uses_its_own_log_probabilities_as_the_old_ones(model):
    """The result is bit-identical to that with log-probabilities that were computed before."""
    for method in ("unigrpo", "espo"):
        config = run_config(method)
        known, expected = updated(model, config)
        metrics, found = updated(model, config, known=False)
        assert known.pop("ratio/first_update_deviation") == 0.0
        assert metrics == known
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_samples_without_an_advantage_and_a_kl_are_counted_but_not_scored(model):
    config = run_config("unigrpo")
    config = dataclasses.replace(config, algo=dataclasses.replace(config.algo, kl=KLConfig(init_coef=0.0)))
    advantages = [1.0, -1.0, *[0.0] * 6]
    passes = []
    forward = LocalEngine.forward

    def counted(self, *arguments, **settings):
        passes.append(len(arguments[0]))
        return forward(self, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "forward", counted)
        engine = LocalEngine(model, config.actor, 100)
        samples = train_samples(config, engine, ROLLOUTS, advantages)
        passes.clear()
        metrics = unigrpo_updates(engine, config, SETTINGS, samples)
    assert passes == [2] * 3  # two of the eight rows are scored
    few, _ = updated(model, config, ROLLOUTS[:2], advantages[:2])
    assert few["loss/policy"] != metrics["loss/policy"]  # the loss is a mean over eight responses, not over two


def test_more_passes_than_rows_change_nothing(model, monkeypatch):
    """All ranks make as many passes as the rank with the most rows."""
    for method in ("unigrpo", "espo"):
        config = run_config(method, micro_batch_size=2)
        metrics, weights = updated(model, config)
        monkeypatch.setattr(LocalEngine, "max_over_ranks", lambda self, number: number + 3 if number > 1 else number)
        again, same = updated(model, config)
        monkeypatch.undo()
        assert again == metrics
        assert all(torch.equal(same[name], value) for name, value in weights.items())


def test_a_task_may_have_its_own_estimator_and_mask_ratios():
    config = run_config("unigrpo")
    tasks = {
        "text": TaskConfig(mask_ratio=MaskRatioConfig(minimum=0.6)),
        "t2i": TaskConfig(likelihood=LikelihoodConfig(name="elbo_pair")),
    }
    config = dataclasses.replace(config, algo=dataclasses.replace(config.algo, tasks=tasks))
    sampler = ViewSampler(config)
    for sample in ROLLOUTS:
        task = sample.key.task
        views = [sampler.views(sample, k) for k in range(3)]
        assert {v.num_views for v in views} == {2 if task in ("t2i", "r2i") else 1}  # r2i has two spans
    shares = [ViewSampler(config).views(rollout("text", n), k).weight.sum() / 5 for n in range(40) for k in range(3)]
    assert sum(shares) / len(shares) == pytest.approx(0.8, abs=0.06)


def test_thoughts_are_scored_with_the_image_masked_and_the_image_with_the_thoughts_shown():
    """There is one view of each span in the order of generation, and both spans have the same weight."""
    sample = rollout("r2i", 0)
    span = spans_of(sample)
    assert span.unique().tolist() == [0, 1, 2]
    assert torch.equal(span == 2, sample.image_mask)
    for k in range(3):
        views = ViewSampler(run_config("unigrpo")).views(sample, k)
        thoughts, image = views.is_masked
        assert thoughts[sample.image_mask].all()
        assert not (views.weight[0] != 0)[sample.image_mask].any()
        assert not image[~sample.image_mask].any()  # padding of the thoughts is also visible
    assert row_of(sample).num_spans == 2


@pytest.mark.parametrize(
    ("advantages", "loss"),
    [((-1.0,), (2.0 + 1.0) / 2), ((-1.0, 0.5), (2.0 - 0.5) / 2), ((0.0, 0.5), (0.0 - 0.5) / 2)],
)
def test_each_span_of_a_response_has_the_same_weight_and_its_own_advantage(model, advantages, loss):
    """Five tokens of thoughts and four codes have the same weight in the loss, which is calculated by hand."""
    config = dataclasses.replace(
        run_config("diffu-grpo", num_inner_updates=1),
        algo=AlgoConfig(
            likelihood=LikelihoodConfig(name="all_masked", options={"prompt_mask_ratio": 0.0}),
            kl=KLConfig(init_coef=0.0),
        ),
    )
    sample, seen = rollout("r2i", 0), {}
    engine = LocalEngine(model, config.actor, 100)
    ((log_probs,),) = score(engine, config, SETTINGS, [sample])
    old = log_probs - math.log(2) * torch.tensor([1.0] * 5 + [0.0] * 4)  # ratios are 2 for thoughts and 1 for codes

    def watched(self, loss):
        loss.backward()
        seen["loss"] = loss.item()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "backward", watched)
        samples = [TrainSample(rollout=sample, advantages=advantages, is_valid=True, old_log_probs=(old,))]
        unigrpo_updates(engine, config, SETTINGS, samples)
    # A mean over tokens would be (5 * 2 + 4 * 1) / 9 for one advantage of -1.
    assert seen["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("method", ["unigrpo", "espo"])
def test_a_loss_that_is_not_finite_ends_the_run_if_none_may_be_skipped(model, method):
    config = run_config(method, max_skipped_updates=0)
    message = r"the loss of inner update 0 is nan; the batch starts with \w+:\d.*; this update was not made, and"
    with pytest.raises(NonFiniteLossError, match=message):
        updated(model, config, advantages=[float("nan")] * 8)


@pytest.mark.parametrize("method", ["unigrpo", "espo"])
def test_updates_that_are_not_finite_are_skipped_and_counted_up_to_a_limit(model, method, monkeypatch, caplog):
    """The second of three updates has a gradient of NaN. The others equal those of a run without this update."""
    config = run_config(method, max_skipped_updates=2)
    step, number = LocalEngine.step, 0

    def poisoned(self):
        nonlocal number
        number += 1
        if number == 2:
            next(self.model.parameters()).grad[:] = float("nan")
        return step(self)

    monkeypatch.setattr(LocalEngine, "step", poisoned)
    metrics, weights = updated(model, config)
    assert metrics["update/skipped"] == 1
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(value.isfinite().all() for value in weights.values())
    assert "the gradient norm of inner update 1 is nan" in caplog.text
    monkeypatch.undo()

    engine = LocalEngine(model, config.actor, 100)
    samples = train_samples(config, engine, ROLLOUTS, [float("nan")] * 8)
    with pytest.raises(NonFiniteLossError, match=r"inner update 1 is nan.* train.max_skipped_updates allows 2 of"):
        unigrpo_updates(engine, config, SETTINGS, samples, 1)  # one update was skipped before this step


def test_a_step_without_any_finite_update_changes_nothing(model):
    config = run_config("unigrpo", max_skipped_updates=3)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    metrics, weights = updated(model, config, advantages=[float("nan")] * 8)
    assert metrics == {"update/skipped": 3.0}
    assert all(torch.equal(weights[name], value) for name, value in start.items())
