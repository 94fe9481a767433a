"""Tests the whole loop in one process, with real workers on a small random model."""

import dataclasses
import functools
import json
import math
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import DIGITS_REWARD, SUMS, Recorder, small_run
from transformers import AutoTokenizer

from unigrpo.batches import TrajectoryBatch
from unigrpo.config import (
    AdamConfig,
    AlgoConfig,
    EvalConfig,
    GroupFilterConfig,
    KLConfig,
    ReferenceConfig,
    RewardConfig,
    RewardTermConfig,
    RunConfig,
)
from unigrpo.data.prompt_stream import PromptStream
from unigrpo.library.trainer import LocalTrainer
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.records import RewardOutput, Rollout, TrainSample
from unigrpo.trainers.rollout_source import Generated
from unigrpo.trainers.unigrpo import UniGRPOTrainer
from unigrpo.training.optimizer_step import NonFiniteLossError
from unigrpo.training.reward_failures import RewardError
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reference import ReferenceWorker


def config(folder, **train: int) -> RunConfig:
    return small_run(folder, train=train, eval=EvalConfig(n_samples_per_prompt=1))


def make_trainer(run: RunConfig, path, eval_prompts=()) -> LocalTrainer:
    run = dataclasses.replace(run, run_dir=str(path))
    return LocalTrainer(run, prompts=SUMS, eval_prompts=eval_prompts)


def weights(trainer: UniGRPOTrainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.policy.worker._engine.model.state_dict().items()}  # type: ignore[attr-defined]


def test_the_work_of_an_evaluation_is_recorded_in_no_step(tiny_model_folder, tmp_path):
    output = Recorder()
    run = config(tiny_model_folder, num_steps=1)
    run = dataclasses.replace(run, eval=EvalConfig(n_samples_per_prompt=8))  # many more samples than a step has
    make_trainer(run, tmp_path, SUMS).fit(output)
    row = output.rows[1]
    assert 0 < row["perf/policy_generate_seconds"] <= row["time/generate_seconds"]


def test_a_step_reports_its_metrics_and_samples(tiny_model_folder, tmp_path):
    output = Recorder()
    trainer = make_trainer(config(tiny_model_folder, num_steps=1), tmp_path, SUMS[:2])
    summary = trainer.fit(output)
    row = output.rows[1]
    for name in (
        "reward/total_mean", "reward/zero_spread_groups", "advantage/std", "kl/reference_nats", "grad_norm",
        "ratio/clipped_fraction", "loss/policy", "learning_rate", "time/generate_seconds", "time/reward_seconds",
        "time/score_seconds", "time/update_seconds", "time/sync_seconds", "throughput/tokens_per_second",
        "memory/policy_peak_gb", "memory/reference_peak_gb", "perf/policy_generate_tflops",
        "perf/policy_update_seconds", "perf/reference_idle_seconds", "throughput/images_per_second_per_gpu",
        "eval/reward_total",
    ):  # fmt: skip
        assert name in row, name
    assert {name for name, value in row.items() if not math.isfinite(value)} == set()
    assert row["throughput/tokens_per_second"] > 0
    assert 0 < row["reward/total_mean"] < 1  # the fraction of digits, which differs between samples
    assert row["reward/total_std"] > 0
    assert row["loss/total"] == pytest.approx(row["loss/policy"] + row["loss/kl"])
    assert 0 < row["tokens/scored"] <= 2 * 8 * 8  # two updates of 8 responses of 8 tokens
    assert row["kl/reference_nats"] > 0  # after the first of the two updates
    assert 0 <= row["ratio/clipped_fraction"] <= 1
    assert summary["steps"] == 1
    assert set(summary["eval"]["before"]) == set(summary["eval"]["after"])
    json.dumps(summary)
    assert [step for step, s in output.samples if s["kind"] == "train"] == [1]
    before = [s for step, s in output.samples if step == 0]
    assert sum(s["reward"] for s in before) / 2 == pytest.approx(summary["eval"]["before"]["reward_total_greedy"])
    # There is one reward with the weight 1.
    assert [list(s["rewards"].values()) for s in before] == [[s["reward"]] for s in before]


def test_old_and_new_log_probabilities_are_equal_before_the_first_update(tiny_model_folder, tmp_path):
    output = Recorder()
    make_trainer(config(tiny_model_folder, logprob_mismatch_steps=2), tmp_path).fit(output)
    deviations = [row.get("ratio/first_update_deviation") for row in output.rows.values()]
    assert deviations == [0.0, None, 0.0, None]  # computed only in steps with the comparison


def test_the_first_step_starts_at_the_reference(tiny_model_folder, tmp_path):
    output = Recorder()
    make_trainer(config(tiny_model_folder, num_steps=2, num_inner_updates=1), tmp_path).fit(output)
    assert output.rows[1]["kl/reference_nats"] == 0.0
    assert output.rows[2]["kl/reference_nats"] > 0.0


def test_the_reward_rises(tiny_model_folder, tmp_path):
    output = Recorder()
    run = config(tiny_model_folder, num_steps=15, num_inner_updates=2)
    run = dataclasses.replace(
        run,
        rollout=dataclasses.replace(run.rollout, batch_size=4),
        actor=dataclasses.replace(run.actor, adam=AdamConfig(lr=3e-3)),
    )
    make_trainer(run, tmp_path).fit(output)
    rewards = [row["reward/total_mean"] for row in output.rows.values()]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tiny_model_folder, tmp_path):
    runs = []
    for seed in (1, 1, 2):
        output = Recorder()
        trainer = make_trainer(config(tiny_model_folder, num_steps=2, seed=seed), tmp_path / str(len(runs)))
        trainer.fit(output)
        runs.append((output.untimed, weights(trainer)))
    assert runs[0][0] == runs[1][0] != runs[2][0]
    assert all(torch.equal(v, runs[1][1][k]) for k, v in runs[0][1].items())


def test_the_reference_follows_the_policy_every_few_steps(tiny_model_folder, tmp_path):
    run = config(tiny_model_folder)
    run = dataclasses.replace(run, algo=dataclasses.replace(run.algo, reference=ReferenceConfig(reset_steps=2)))
    trainer = make_trainer(run, tmp_path)
    reference = trainer.reference.worker.forward  # type: ignore[union-attr]
    name = "model.transformer.wte.weight"
    seen = []
    step = trainer.train_step

    def watched(number, output):
        values = step(number, output)
        seen.append((weights(trainer)[name], reference.state_dict()[name].clone()))
        return values

    trainer.train_step = watched  # type: ignore[method-assign]
    trainer.fit(Recorder())
    policy, follower = zip(*seen, strict=True)
    assert [torch.equal(follower[i], policy[i]) for i in range(4)] == [False, True, False, True]
    assert torch.equal(follower[2], policy[1])
    assert not list((tmp_path / "checkpoints").glob(".scratch*"))


@pytest.mark.parametrize("reset_steps", [0, 1])
def test_a_resumed_run_equals_one_that_was_never_stopped(tiny_model_folder, tmp_path, reset_steps):
    """The second case has a reference that follows the policy."""
    run = config(tiny_model_folder)
    reference = ReferenceConfig(reset_steps=reset_steps, ema=0.5 * reset_steps)
    run = dataclasses.replace(
        run,
        ckpt=dataclasses.replace(run.ckpt, save_steps=2),
        algo=dataclasses.replace(run.algo, reference=reference),
    )
    straight = Recorder()
    whole = make_trainer(run, tmp_path / "whole")
    whole.fit(straight)

    killed = make_trainer(run, tmp_path / "killed")
    real_step = killed.train_step

    def dies_in_the_fourth_step(step, output):
        if step == 3:
            real_step(step, output)
            raise KeyboardInterrupt
        return real_step(step, output)

    killed.train_step = dies_in_the_fourth_step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        killed.fit(Recorder())
    again = Recorder()
    resumed = make_trainer(run, tmp_path / "killed")
    assert resumed.resume() == 2
    resumed.fit(again)
    assert again.untimed == {k: v for k, v in straight.untimed.items() if k > 2}
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(resumed).items())


def raises(*, completions, **_):
    raise KeyError("boom")


def returns_nan(*, completions, **_):
    return [float("nan")] * len(completions)


def returns_too_few(*, completions, **_):
    return [0.0] * (len(completions) - 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "raises",
            r"reward 'raises' raised KeyError: 'boom' \(.*test_unigrpo.py:\d+\): 8 of 8 samples have no reward, the "
            "first is sample 0",
        ),
        ("returns_nan", "reward 'returns_nan' returned nan: 8 of 8 samples have no reward"),
        ("returns_too_few", "reward 'returns_too_few' returned 7 values for 8 samples"),
    ],
)
def test_a_broken_reward_stops_the_step_before_any_update(tiny_model_folder, tmp_path, function, message):
    run = config(tiny_model_folder)
    terms = (RewardTermConfig(name=f"{__file__}:{function}"),)
    run = dataclasses.replace(run, reward=RewardConfig(terms=terms))
    trainer = make_trainer(run, tmp_path)
    before = weights(trainer)
    with pytest.raises(RewardError, match=message):
        trainer.fit(Recorder())
    assert all(torch.equal(v, before[k]) for k, v in weights(trainer).items())


def is_missing_for_the_first(*, completions, **_):
    return [None, *(float(len(set(text))) for text in completions[1:])]


def is_missing(*, completions, **_):
    return [None] * len(completions)


def test_a_sample_without_a_reward_is_not_used_in_the_update(tiny_model_folder, tmp_path):
    run = config(tiny_model_folder, num_steps=1)
    terms = (RewardTermConfig(name=f"{__file__}:is_missing_for_the_first"),)
    trainer = make_trainer(dataclasses.replace(run, reward=RewardConfig(terms=terms)), tmp_path)
    planned = []
    update = trainer._update
    trainer._update = lambda samples: planned.extend(samples) or update(samples)  # type: ignore[method-assign]
    output = Recorder()
    trainer.fit(output)
    assert [s.is_valid for s in planned] == [False] + [True] * 7
    assert planned[0].advantages == (0,)
    assert output.rows[1]["tokens/scored"] < sum(int(s.rollout.scored_mask.sum()) for s in planned[1:])
    # The three other samples of its group are compared with each other.
    assert sum(s.advantages[0] for s in planned[1:4]) == pytest.approx(0, abs=1e-6)
    assert output.rows[1]["reward/is_missing_for_the_first_missing_fraction"] == 1 / 8
    assert output.rows[1]["reward/left_out_fraction"] == 1 / 8


def test_a_step_without_any_reward_changes_nothing_if_the_run_allows_it(tiny_model_folder, tmp_path):
    run = config(tiny_model_folder, num_steps=1)
    terms = (RewardTermConfig(name=f"{__file__}:is_missing"),)
    run = dataclasses.replace(run, reward=RewardConfig(terms=terms, max_missing_fraction=1.0))
    trainer, output = make_trainer(run, tmp_path), Recorder()
    before = weights(trainer)
    trainer.fit(output)
    assert all(torch.equal(v, before[k]) for k, v in weights(trainer).items())
    assert output.rows[1]["reward/left_out_fraction"] == 1.0
    assert output.rows[1]["policy_version"] == 0


def test_a_step_with_too_few_rewards_changes_no_weights_and_the_next_step_follows(tiny_model_folder, tmp_path):
    run = config(tiny_model_folder, num_steps=2)
    terms = (RewardTermConfig(name=DIGITS_REWARD),)
    run = dataclasses.replace(run, reward=RewardConfig(terms=terms, max_failed_steps=2))
    trainer = make_trainer(run, tmp_path)
    score = trainer.reward.score
    kept = []

    def fails_first(rollouts):
        outputs, work = score(rollouts)
        kept.append(weights(trainer))
        if len(kept) == 1:
            outputs = [RewardOutput(parts={"digits_reward": None}, reasons={"digits_reward": "is away"})] * 8
        return outputs, work

    trainer.reward.score = fails_first
    output = Recorder()
    trainer.fit(output)
    assert all(torch.equal(v, kept[1][k]) for k, v in kept[0].items())
    assert not all(torch.equal(v, kept[1][k]) for k, v in weights(trainer).items())
    assert "grad_norm" not in output.rows[1]
    assert "grad_norm" in output.rows[2]


def test_rewards_are_started_before_the_models_score_and_waited_for_afterwards(
    tiny_model_folder, tmp_path, monkeypatch
):
    trainer = make_trainer(config(tiny_model_folder), tmp_path)
    order = []

    def watched(owner, name, what):
        function = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *arguments: order.append(what) or function(*arguments))

    watched(trainer.reward, "start", "rewards begin")
    # In one process, rewards are computed when the trainer waits for them.
    watched(trainer.reward, "score", "rewards end")
    watched(Generated, "old_log_probs", "policy scores")
    watched(trainer.reference, "map", "reference scores")
    watched(trainer, "_update", "update")
    trainer.train_step(0, Recorder())
    assert order == ["rewards begin", "policy scores", "reference scores", "rewards end", "update"]


def test_a_reference_on_its_own_gpus_scores_at_the_same_time_as_the_policy_with_equal_results(
    tiny_model_folder, tmp_path, monkeypatch
):
    rows = []
    for is_shared in (True, False):
        if not is_shared:  # the two calls wait for each other
            barrier = threading.Barrier(2, timeout=30)
            for worker in (PolicyWorker, ReferenceWorker):
                monkeypatch.setattr(worker, "log_likelihood", behind(barrier, worker.log_likelihood))
        run = config(tiny_model_folder, num_steps=2, colocate_actor_ref=is_shared)
        trainer, output = make_trainer(run, tmp_path / str(is_shared)), Recorder()
        trainer.fit(output)
        rows.append(output.untimed)
    assert rows[0] == rows[1]


def behind(barrier, score):
    @functools.wraps(score)
    def waiting(worker, *arguments):
        barrier.wait()
        return score(worker, *arguments)

    return waiting


def test_a_loss_that_is_not_finite_stops_the_step_before_the_update(tiny_model_folder, tmp_path):
    trainer = make_trainer(config(tiny_model_folder, max_skipped_updates=0), tmp_path)
    update = trainer._update

    def infinite(samples):
        return update([dataclasses.replace(s, advantages=(float("nan"),)) for s in samples])

    trainer._update = infinite  # type: ignore[method-assign]
    before = weights(trainer)
    with pytest.raises(NonFiniteLossError, match=r"the loss of inner update 0 is nan; .*sums:\d .*was not made"):
        trainer.fit(Recorder())
    assert all(torch.equal(v, before[k]) for k, v in weights(trainer).items())


def test_the_export_is_the_policy(tiny_model_folder, tmp_path):
    trainer = make_trainer(config(tiny_model_folder, num_steps=1), tmp_path)
    trainer.fit(Recorder())
    trainer.export(tmp_path / "policy")
    loaded = MMadaModelLM.from_pretrained(tmp_path / "policy").state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in weights(trainer).items())
    assert len(AutoTokenizer.from_pretrained(tmp_path / "policy")) == len(
        AutoTokenizer.from_pretrained(tiny_model_folder)
    )
    shutil.rmtree(tmp_path / "policy")


def even_prompts_differ(*, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Returns the number of different characters for prompts that start with an even digit, and 1 for the others."""
    return [1.0 if int(p[0]) % 2 else float(len(set(c))) for p, c in zip(prompts, completions, strict=True)]


def filtered(folder: Path, *, oversample: float = 2.0, kl: float = 0.01, filtering: bool = True) -> RunConfig:
    run = config(folder, num_steps=4, logprob_mismatch_steps=0)
    return dataclasses.replace(
        run,
        rollout=dataclasses.replace(run.rollout, oversample=oversample),
        algo=AlgoConfig(
            group_filter=GroupFilterConfig(name="informative" if filtering else ""), kl=KLConfig(init_coef=kl)
        ),
        reward=RewardConfig(terms=(RewardTermConfig(name=f"{__file__}:even_prompts_differ"),)),
    )


def watched(trainer: UniGRPOTrainer) -> list[list[TrainSample]]:
    """Returns a list that records the samples of each update."""
    seen: list[list[TrainSample]] = []
    update = trainer._update
    trainer._update = lambda samples: seen.append(list(samples)) or update(samples)  # type: ignore[method-assign]
    return seen


def test_a_step_trains_on_the_first_informative_groups_in_the_order_of_the_prompts(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    run = filtered(tiny_model_folder)
    trainer, output = make_trainer(run, tmp_path), Recorder()
    seen = watched(trainer)
    trainer.fit(output)
    asked = PromptStream(SUMS, 4, 4, run.seed)
    for step, samples in enumerate(seen):
        prompts = [request.prompt for request in asked.requests(step)[::4]]
        expected = [prompt.id for prompt in prompts if int(prompt.text[0]) % 2 == 0][:2]
        assert [s.rollout.key.prompt_id for s in samples[::4]] == expected
        assert len(samples) == 4 * len(expected)
        assert output.rows[step + 1]["rollout/kept_groups"] == len(expected)
    assert len(seen) == 4


def test_the_groups_that_are_left_out_do_not_change_the_update(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = filtered(tiny_model_folder)
    trainer = make_trainer(run, tmp_path / "filtered")
    seen = watched(trainer)
    trainer.train_step(0, Recorder())
    alone = make_trainer(run, tmp_path / "alone")
    rollouts = [sample.rollout for sample in seen[0] if isinstance(sample.rollout, Rollout)]
    batch = TrajectoryBatch.of(rollouts)
    old = alone.policy.map(PolicyWorker.log_likelihood, batch).rows()
    assert alone.reference is not None
    ref = alone.reference.map(ReferenceWorker.log_likelihood, batch).rows()
    rewards = even_prompts_differ(
        prompts=[r.prompt.text for r in rollouts], completions=[r.completion for r in rollouts]
    )
    groups = torch.tensor(rewards, dtype=torch.float64).view(-1, 4)
    advantages = (groups - groups.mean(1, keepdim=True)) / groups.std(1, correction=0, keepdim=True)
    samples = [
        TrainSample(rollout=r, advantages=(a,), is_valid=True, old_log_probs=o, ref_log_probs=f)
        for r, a, o, f in zip(rollouts, advantages.flatten().tolist(), old, ref, strict=True)
    ]
    alone._update(samples)
    assert all(torch.allclose(v, weights(alone)[k], rtol=0, atol=1e-6) for k, v in weights(trainer).items())


def test_a_resumed_run_with_oversampling_equals_one_that_was_never_stopped(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    run = filtered(tiny_model_folder)
    run = dataclasses.replace(run, ckpt=dataclasses.replace(run.ckpt, save_steps=2))
    whole, straight = make_trainer(run, tmp_path / "whole"), Recorder()
    whole.fit(straight)
    killed = make_trainer(run, tmp_path / "killed")
    step = killed.train_step

    def dies_in_the_third_step(number: int, output: Any) -> dict[str, float]:
        if number == 2:
            raise KeyboardInterrupt
        return step(number, output)

    killed.train_step = dies_in_the_third_step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        killed.fit(Recorder())
    resumed, again = make_trainer(run, tmp_path / "killed"), Recorder()
    assert resumed.resume() == 2
    resumed.fit(again)
    assert again.untimed == {k: v for k, v in straight.untimed.items() if k > 2}
    assert all(torch.equal(v, weights(whole)[k]) for k, v in weights(resumed).items())


@pytest.mark.parametrize("filtering", [True, False])
def test_samples_without_advantage_and_kl_are_not_scored(
    filtering: bool, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = filtered(tiny_model_folder, oversample=1.0, kl=0.0, filtering=filtering)
    trainer = make_trainer(run, tmp_path)
    scored: list[str] = []
    old = Generated.old_log_probs
    monkeypatch.setattr(
        Generated,
        "old_log_probs",
        lambda generated, rollouts, checked: (
            scored.extend(r.prompt.text for r in rollouts) or old(generated, rollouts, checked)
        ),
    )
    output = Recorder()
    trainer.fit(output)
    assert {int(text[0]) % 2 for text in scored} == {0}
    assert "perf/reference_log_likelihood_seconds" not in output.rows[1]


def test_oversampling_without_a_group_filter_is_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"oversample is 1.5, but no algo.group_filter chooses"):
        filtered(tiny_model_folder, oversample=1.5, filtering=False)
    with pytest.raises(ValueError, match=r"oversample is 0.5; it must be 1 or more"):
        filtered(tiny_model_folder, oversample=0.5)
    assert filtered(tiny_model_folder, oversample=1.1).rollout.num_sampled_prompts == 3
    rollout = dataclasses.replace(filtered(tiny_model_folder).rollout, batch_size=10, oversample=1.1)
    assert rollout.num_sampled_prompts == 11


@pytest.mark.parametrize(("coefficient", "shown"), [(0.1, {"KL": "0.0123"}), (0.0, {})])
def test_the_line_of_a_step_shows_a_kl_only_if_it_is_measured(coefficient: float, shown: dict[str, str]) -> None:
    """Without a reference the metric is 0, as if the policy did not change."""
    trainer: Any = SimpleNamespace(config=RunConfig(algo=AlgoConfig(kl=KLConfig(init_coef=coefficient))))
    values = {"reward/total_mean": 0.5, "kl/reference_nats": 0.01234, "time/step_seconds": 2.0}
    assert UniGRPOTrainer.shown(trainer, values) == {"reward": "0.500", **shown, "s/step": "2.00"}
