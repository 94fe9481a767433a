"""Inner updates through a small model: every method on every task, the same however its passes are cut."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from unigrpo.config import (
    TASKS,
    ActorConfig,
    AdamConfig,
    AlgoConfig,
    KLConfig,
    LikelihoodConfig,
    MaskRatioConfig,
    ObjectiveConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
)
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.records import KeyedTrajectory, SampleKey, TrainSample
from unigrpo.rng import keyed_generator
from unigrpo.training.batching import NonFiniteLossError
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import score
from unigrpo.training.scoring_settings import ScoringSettings
from unigrpo.training.unigrpo import unigrpo_updates
from unigrpo.training.views import ViewSampler, row_of, spans_of

MASK, FIRST_CODE, NUM_CODES = 1, 20, 8
SETTINGS = ScoringSettings(
    mask_id=MASK, image_slice=(FIRST_CODE, FIRST_CODE + NUM_CODES), text_temperature=0.9, image_temperature=1.1
)
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "unigrpo": ({"name": "masked_tokens"}, {}, {}),
    "random masking": ({"name": "random_masking"}, {"level": "view_token"}, {}),
    "diffu-grpo": ({"name": "all_masked"}, {}, {}),
    "coupled": ({"name": "coupled"}, {}, {}),
    "trace": ({"name": "trace"}, {"level": "view"}, {}),
    "trace of uncertain steps": (
        {"name": "trace", "options": {"num_views": 2, "choose": "uncertain"}}, {"level": "view_token"}, {},
    ),
    "justgrpo": ({"name": "left_to_right"}, {}, {}),
    "justgrpo fast": ({"name": "left_to_right", "options": {"top_entropy": 0.25}}, {}, {}),
    "espo": ({"name": "elbo_pair"}, {"level": "sequence"}, {"estimator": "k2", "level": "sequence"}),
    "gdpo": ({"name": "elbo_quadrature"}, {"level": "sequence"}, {}),
    "spg": ({"name": "block_masks", "options": {"block_length": 3}}, {"name": "sandwich"}, {}),
    "wd1": ({"name": "all_masked"}, {"name": "weighted"}, {}),
    "cispo": ({"name": "masked_tokens"}, {"name": "cispo"}, {}),
    "gmpo": ({"name": "masked_tokens"}, {"name": "geometric"}, {}),
    "stabledrl": ({"name": "elbo_pair"}, {"name": "unconditional_clip"}, {}),
}  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 16, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 32, "init_std": 0.3}
    return MMadaModelLM(MMadaConfig(vocab_size=FIRST_CODE + NUM_CODES, mask_token_id=MASK, **sizes))


def rollout(task: str, number: int) -> KeyedTrajectory:
    """A prompt, thoughts or an answer of 5 tokens and 2 of padding, and 4 codes, where the task has them."""
    generator = keyed_generator("rollout", task, number)

    def draw(count, low, high):
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


def train_samples(config, engine, rollouts, advantages=ADVANTAGES, known=True) -> list[TrainSample]:
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


def updated(model, config, rollouts=ROLLOUTS, advantages=ADVANTAGES, known=True):
    """Metrics and weights after the inner updates."""
    start = {name: value.clone() for name, value in model.state_dict().items()}
    engine = LocalEngine(model, config.actor, 100)
    samples = train_samples(config, engine, rollouts, advantages, known)
    metrics = unigrpo_updates(engine, config, SETTINGS, samples)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(start)
    return metrics, weights


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_every_task_however_its_passes_are_cut(model, method):
    """Passes of one row tear the units of most methods apart: their gradient then takes two passes."""
    model = model.double()
    whole, weights = updated(model, run_config(method, num_inner_updates=2))
    assert whole["grad_norm"] > 0
    assert whole["loss/kl"] > 0
    for task in TASKS:
        assert (f"kl/reference_nats/{task}" in whole) == (task != "t2i")
    cuts = [{"micro_batch_size": 1}, {"micro_batch_tokens": 30}]
    for cut in cuts if method in ("unigrpo", "espo") else cuts[:1]:
        metrics, again = updated(model, run_config(method, num_inner_updates=2, **cut))
        # The log-probabilities are float32, whatever the weights.
        assert metrics == pytest.approx(whole, rel=1e-4, abs=1e-6)
        for name, value in weights.items():
            torch.testing.assert_close(again[name], value, rtol=0, atol=1e-5)


def test_the_first_update_takes_its_own_log_probabilities_for_the_old_ones(model):
    """Bit for bit what it does with those that were computed before."""
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
    assert passes == [2] * 3  # two of the eight rows
    few, _ = updated(model, config, ROLLOUTS[:2], advantages[:2])
    assert few["loss/policy"] != metrics["loss/policy"]  # a mean over eight responses, not over two


def test_more_passes_than_rows_change_nothing(model, monkeypatch):
    """As on a rank whose neighbours have more rows, so that all make as many passes as the busiest."""
    for method in ("unigrpo", "espo"):
        config = run_config(method, micro_batch_size=2)
        metrics, weights = updated(model, config)
        monkeypatch.setattr(LocalEngine, "max_over_ranks", lambda self, number: number + 3 if number > 1 else number)
        again, same = updated(model, config)
        monkeypatch.undo()
        assert again == metrics
        assert all(torch.equal(same[name], value) for name, value in weights.items())


def test_a_task_may_have_an_estimator_and_mask_ratios_of_its_own():
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
        assert {v.num_views for v in views} == {2 if task in ("t2i", "r2i") else 1}  # r2i has two parts
    shares = [ViewSampler(config).views(rollout("text", n), k).weight.sum() / 5 for n in range(40) for k in range(3)]
    assert sum(shares) / len(shares) == pytest.approx(0.8, abs=0.06)


def test_thoughts_are_scored_with_the_image_masked_and_the_image_with_the_thoughts_shown():
    """The order of writing: one view of each part, and the mean over parts gives each half of the weight."""
    sample = rollout("r2i", 0)
    span = spans_of(sample)
    assert span.unique().tolist() == [0, 1, 2]
    assert torch.equal(span == 2, sample.image_mask)
    for k in range(3):
        views = ViewSampler(run_config("unigrpo")).views(sample, k)
        thoughts, image = views.is_masked
        assert thoughts[sample.image_mask].all()
        assert not (views.weight[0] != 0)[sample.image_mask].any()
        assert not image[~sample.image_mask].any()  # padding of the thoughts is shown too
    assert row_of(sample).num_spans == 2


@pytest.mark.parametrize(
    ("advantages", "loss"),
    [((-1.0,), (2.0 + 1.0) / 2), ((-1.0, 0.5), (2.0 - 0.5) / 2), ((0.0, 0.5), (0.0 - 0.5) / 2)],
)
def test_each_part_of_a_response_has_the_same_weight_and_its_own_advantage(model, advantages, loss):
    """Five tokens of thoughts and four codes share the gradient equally; the loss of a part by hand."""
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
    old = log_probs - math.log(2) * torch.tensor([1.0] * 5 + [0.0] * 4)  # ratios of 2 for thoughts, of 1 for codes

    def watched(self, loss):
        loss.backward()
        seen["loss"] = loss.item()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalEngine, "backward", watched)
        samples = [TrainSample(rollout=sample, advantages=advantages, is_valid=True, old_log_probs=(old,))]
        unigrpo_updates(engine, config, SETTINGS, samples)
    assert seen["loss"] == pytest.approx(loss, rel=1e-5)  # and not (5 * 2 + 4 * 1) / 9 for one advantage of -1


@pytest.mark.parametrize("method", ["unigrpo", "espo"])
def test_a_loss_that_is_not_finite_stops_before_the_update(model, method):
    config = run_config(method)
    with pytest.raises(NonFiniteLossError, match=r"the loss of inner update 0 is nan; the batch starts with \w+:\d"):
        updated(model, config, advantages=[float("nan")] * 8)
