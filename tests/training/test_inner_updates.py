"""Inner updates through a small model: every method on every task, the same however its passes are cut."""

from __future__ import annotations

import copy
import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from unigrpo.algorithm.objective.base import load_objective
from unigrpo.batches import WholeGroups
from unigrpo.config import (
    TASKS,
    ActorConfig,
    AdamConfig,
    AlgoConfig,
    DeepSpeedConfig,
    KLConfig,
    LikelihoodConfig,
    LoRAConfig,
    MaskRatioConfig,
    ObjectiveConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
)
from unigrpo.models.lora import add_lora
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.records import KeyedTrajectory, SampleKey, TrainSample
from unigrpo.rng import keyed_generator
from unigrpo.training.batching import NonFiniteLossError
from unigrpo.training.behaviour import check_behaviour
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


class Rank(LocalEngine):
    """One of several ranks in the threads of this process, which sum gradients as DeepSpeed does."""

    def __init__(self, meeting: threading.Barrier, told: list[Any], rank: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rank, self._meeting, self._told = rank, meeting, told

    def told_by_all(self, value: Any) -> list[Any]:
        """What every rank says, in the order of the ranks."""
        self._told[self.rank] = value
        self._meeting.wait()
        found = list(self._told)
        self._meeting.wait()
        return found

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.told_by_all(values)).sum(0)

    def max_over_ranks(self, number: int) -> int:
        return max(self.told_by_all(number))

    def step(self) -> float:
        for weight in self.model.parameters():
            nothing = torch.zeros_like(weight)
            weight.grad = self.all_reduce_sum(nothing if weight.grad is None else weight.grad)
        return super().step()


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_groups_that_ranks_cannot_share_equally_train_as_in_one_process(model, num_ranks):
    """Three groups, as a group filter leaves them: one rank has one more than the others, or none."""
    config = run_config("stabledrl", num_inner_updates=2, micro_batch_size=2)
    config = dataclasses.replace(config, algo=dataclasses.replace(config.algo, tasks={}, kl=KLConfig(init_coef=0.0)))
    rollouts, advantages = [rollout("text", number) for number in range(6)], [1.0, -0.5, 0.2, -0.7, -2.0, 2.0]
    # As far from the policy as after some updates, so that ratios differ and some are clipped.
    shifts = [0.3, -2.0, 1.0, 0.1, -0.2, 3.0]
    scored = score(LocalEngine(model, config.actor, 100), config, SETTINGS, rollouts)
    samples = [
        TrainSample(rollout=r, advantages=(a,), is_valid=True, old_log_probs=tuple(x + shift for x in one))
        for r, a, one, shift in zip(rollouts, advantages, scored, shifts, strict=True)
    ]
    meeting, told = threading.Barrier(num_ranks, timeout=60), [None] * num_ranks
    ranks = [Rank(meeting, told, i, copy.deepcopy(model), config.actor, 100) for i in range(num_ranks)]
    expected = unigrpo_updates(LocalEngine(model, config.actor, 100), config, SETTINGS, samples)
    assert 0 < expected["ratio/clipped_fraction"] < 1
    parts = WholeGroups.of(samples).split(num_ranks)
    assert sorted(len(part) for part in parts) == ([2, 4] if num_ranks == 2 else [0, 2, 2, 2])
    with ThreadPoolExecutor(num_ranks) as threads:
        found = list(
            threads.map(lambda rank, part: unigrpo_updates(rank, config, SETTINGS, part.samples()), ranks, parts)
        )
    own = ("ratio/max", "ratio/first_update_deviation")  # of each rank
    for rank, metrics in zip(ranks, found, strict=True):
        shared = {name: value for name, value in expected.items() if name not in own}
        assert {n: v for n, v in metrics.items() if n not in own} == pytest.approx(shared, rel=1e-4, abs=1e-6)
        for weight, right in zip(rank.model.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(weight, right, rtol=0, atol=1e-5)


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
def test_a_loss_that_is_not_finite_ends_the_run_if_none_may_be_skipped(model, method):
    config = run_config(method, max_skipped_updates=0)
    message = r"the loss of inner update 0 is nan; the batch starts with \w+:\d.*; this update was not made, and"
    with pytest.raises(NonFiniteLossError, match=message):
        updated(model, config, advantages=[float("nan")] * 8)


@pytest.mark.parametrize("method", ["unigrpo", "espo"])
def test_updates_that_are_not_finite_are_skipped_and_counted_up_to_a_limit(model, method, monkeypatch, caplog):
    """The second of three updates has a gradient of NaN: the others are those of a run that never made it."""
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
        unigrpo_updates(engine, config, SETTINGS, samples, 1)  # one before this step, then two


def test_a_step_without_any_finite_update_changes_nothing(model):
    config = run_config("unigrpo", max_skipped_updates=3)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    metrics, weights = updated(model, config, advantages=[float("nan")] * 8)
    assert metrics == {"update/skipped": 3.0}
    assert all(torch.equal(weights[name], value) for name, value in start.items())


@pytest.mark.parametrize("cut", [{}, {"micro_batch_size": 1}])
@pytest.mark.parametrize("method", ["unigrpo", "espo"])
def test_the_exact_kl_is_that_of_whole_distributions(model, method, cut):
    """Against a loop over tokens, with the base apart; as a loss it pulls the adapters back to it."""
    base = copy.deepcopy(model).eval()
    lora = LoRAConfig(rank=4, alpha=8)
    add_lora(model, lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    config = run_config(method, num_inner_updates=1, **cut)
    kl = KLConfig(estimator="exact", init_coef=10.0)
    config = dataclasses.replace(config, ds=DeepSpeedConfig(lora=lora), algo=dataclasses.replace(config.algo, kl=kl))
    engine, sampler = LocalEngine(model, config.actor, 100), ViewSampler(config)

    def loop():
        """Mean over the scored tokens of all samples whose task has a KL."""
        found = []
        for sample in ROLLOUTS:
            views = sampler.views(sample, 0)
            if config.kl_coef(sample.key.task) == 0:
                continue
            for masked, weight in zip(views.is_masked, views.weight, strict=True):
                xt = torch.where(masked, MASK, sample.token_ids)[None]
                for place in (weight != 0).nonzero().flatten():
                    is_code = bool(sample.image_mask[place])
                    ids = slice(*SETTINGS.image_slice) if is_code else slice(None)
                    temperature = SETTINGS.image_temperature if is_code else SETTINGS.text_temperature
                    with torch.no_grad():
                        p, q = ((m(xt).logits[0, place, ids] / temperature).log_softmax(-1) for m in (model, base))
                    found.append((p.exp() * (p - q)).sum() * (weight[place] if method == "espo" else 1.0))
        return found

    expected = loop()
    scored = score(engine, config, SETTINGS, ROLLOUTS)
    samples = [
        TrainSample(rollout=r, advantages=(0.0,), is_valid=True, old_log_probs=one)
        for r, one in zip(ROLLOUTS, scored, strict=True)
    ]
    metrics = unigrpo_updates(engine, config, SETTINGS, samples)
    assert metrics["grad_norm"] > 0
    if method == "unigrpo":
        assert metrics["kl/reference_nats"] == pytest.approx(float(sum(expected) / len(expected)), rel=1e-4)
    assert "kl/reference_nats/t2i" not in metrics
    for _ in range(40):
        unigrpo_updates(engine, config, SETTINGS, samples)
    assert sum(loop()) < 0.5 * sum(expected)


def test_the_exact_kl_needs_the_base_in_the_same_process():
    with pytest.raises(ValueError, match=r"algo.kl.estimator is exact, .* ds.lora.rank is 0; set ds.lora.rank"):
        RunConfig(algo=AlgoConfig(kl=KLConfig(estimator="exact")))


def decoupled(level="token", **rollout: Any) -> RunConfig:
    """Trace replay whose objective weighs by what the sampler recorded."""
    config = run_config("trace", num_inner_updates=1)
    objective = ObjectiveConfig(level=level, options={"max_importance": 1.5})
    algo = dataclasses.replace(config.algo, objective=objective, kl=KLConfig(init_coef=0.0))
    return dataclasses.replace(config, algo=algo, rollout=dataclasses.replace(config.rollout, **rollout))


def test_tokens_are_weighed_by_what_the_sampler_recorded(model, monkeypatch):
    """min(1.5, old over behaviour probability) of every token, by a loop; the ratio to the old policy is 1."""
    config = decoupled()
    engine = LocalEngine(model, config.actor, 100)
    rollouts = ROLLOUTS[:2]  # of text, with one token or two at a step
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


def test_older_weights_are_told_from_the_policy_before_the_updates(model):
    """Two steps of staleness in the behaviour alone: ratios are 1, and the weights are those of the distance."""
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
    with pytest.raises(ValueError, match=r"max_importance weighs by what generated .* or max_importance 0"):
        check_behaviour(fresh, objective)
    stale = dataclasses.replace(fresh, rollout=dataclasses.replace(fresh.rollout, max_staleness=1, num_workers=1))
    check_behaviour(stale, objective)
