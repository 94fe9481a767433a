"""Tests runs of each task, of pairs of tasks and of all tasks in one process, with rewards and settings by task."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders import Recorder, undocumented_metrics
from PIL import Image
from training.small_updates import METHODS

from unigrpo.batches import TrainBatch, TrajectoryBatch
from unigrpo.checks.unigrpo import check_inputs
from unigrpo.config import (
    ActorConfig,
    AdamConfig,
    AdvantageConfig,
    AlgoConfig,
    DataConfig,
    DeepSpeedConfig,
    EvalConfig,
    ImageConfig,
    ImageSamplingConfig,
    KLConfig,
    LikelihoodConfig,
    ObjectiveConfig,
    RewardConfig,
    RewardTermConfig,
    RolloutConfig,
    RunConfig,
    TaskConfig,
    TextSamplingConfig,
    TrainConfig,
)
from unigrpo.data.prompts import load_prompts
from unigrpo.library.trainer import LocalTrainer
from unigrpo.records import Prompt, Rollout, SampleRequest
from unigrpo.trainers.logprob_check import LogprobCheck, LogprobMismatchError
from unigrpo.trainers.unigrpo import UniGRPOTrainer
from unigrpo.training.passes import entry_log_probs
from unigrpo.workers.logprob_mismatch import LogprobGap, _row_at
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reference import ReferenceWorker

TASKS = ("text", "mmu", "t2i", "r2i")


def digits(*, completions, tasks):
    """Returns the fraction of digits, for texts only."""
    assert set(tasks) <= {"text", "mmu"}
    return [sum(c.isdigit() for c in text) / max(len(text), 1) for text in completions]


def redness(*, images, tasks):
    """Returns the difference between the red and the blue value of an image."""
    assert set(tasks) <= {"t2i", "r2i"}
    means = [torch.tensor(list(image.resize((1, 1)).getpixel((0, 0))), dtype=torch.float64) for image in images]
    return [float(rgb[0] - rgb[2]) / 255 for rgb in means]


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("prompts")
    Image.new("RGB", (20, 16), "red").save(folder / "red.png")
    rows = [
        {"task": "text", "prompt": "1+1=", "label": "2"},
        {"task": "mmu", "prompt": "colour?", "label": "red", "image": str(folder / "red.png")},
        {"task": "t2i", "prompt": "a red square"},
        {"task": "r2i", "prompt": "what blood looks like"},
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "prompts.jsonl")


def config(model: Path, prompt_file: str, **algo: Any) -> RunConfig:
    return RunConfig(
        data=DataConfig(prompt_dataset=prompt_file, max_prompt_tokens=64),
        image=ImageConfig(resolution=16),
        rollout=RolloutConfig(
            batch_size=4,
            n_samples_per_prompt=4,
            micro_batch_size=3,
            text=TextSamplingConfig(max_new_tokens=8, num_denoising_steps=4, block_length=4, temperature=0.9),
            image=ImageSamplingConfig(num_denoising_steps=3, temperature=1.1, guidance_scale=1.0),
        ),
        actor=ActorConfig(model_name_or_path=str(model), adam=AdamConfig(lr=1e-3), lr_warmup_ratio=0.0),
        algo=AlgoConfig(tasks={"t2i": TaskConfig(kl_coef=0.0, eps_clip_low_high=(0.1, 0.1), loss_coef=0.5)}, **algo),
        reward=RewardConfig(
            terms=(
                RewardTermConfig(name=f"{__file__}:digits", tasks=("text", "mmu")),
                RewardTermConfig(name=f"{__file__}:redness", tasks=("t2i", "r2i")),
            )
        ),
        train=TrainConfig(num_steps=2, num_inner_updates=2, micro_batch_size=4),
        eval=EvalConfig(n_samples_per_prompt=1),
        ds=DeepSpeedConfig(param_dtype="fp32"),
    )


def make_trainer(run: RunConfig, path: Path, prompts: list[Prompt], eval_prompts: list[Prompt]) -> LocalTrainer:
    return LocalTrainer(dataclasses.replace(run, run_dir=str(path)), prompts=prompts, eval_prompts=eval_prompts)


PAIRS = [pytest.param(tasks, marks=pytest.mark.slow) for tasks in itertools.combinations(TASKS, 2)]


@pytest.mark.parametrize("tasks", [*itertools.combinations(TASKS, 1), *PAIRS, TASKS], ids="+".join)
def test_any_mixture_of_tasks_trains_and_scores_as_it_sampled(tiny_unified_folder, prompt_file, tmp_path, tasks):
    prompts = [p for p in load_prompts(prompt_file) if p.task in tasks]
    output = Recorder()
    trainer = make_trainer(config(tiny_unified_folder, prompt_file), tmp_path, prompts, prompts)
    summary = trainer.fit(output)
    for row in (output.rows[1], output.rows[2]):
        assert row["grad_norm"] > 0
        for task in TASKS:
            assert (f"reward/total_mean/{task}" in row) == (task in tasks)
            assert (f"kl/reference_nats/{task}" in row) == (task in tasks and task != "t2i")  # the kl_coef of t2i is 0
    assert output.rows[1]["ratio/first_update_deviation"] == 0.0
    assert output.rows[1]["kl/reference_nats"] >= 0
    in_turn = [sorted(tasks)[step % len(tasks)] for step in range(2)]
    assert [row["task"] for _, row in output.samples if row["kind"] == "train"] == in_turn
    shown = zip([row["task"] for step, row in output.samples if step == 0], output.sample_images[0], strict=True)
    assert all((image is not None) == (task in ("t2i", "r2i")) for task, image in shown)
    after = summary["eval"]["after"]
    if len(tasks) > 1:
        assert {f"reward_total_sampled/{task}" for task in tasks} <= set(after)
    assert undocumented_metrics(name for row in output.rows.values() for name in row) == []
    first, last = output.held_out[0], output.held_out[2]
    assert [(row["prompt_id"], row["task"]) for row in first] == [(prompt.id, prompt.task) for prompt in prompts]
    for name in ("reward_total_greedy", "reward_total_sampled"):
        mean = sum(row["scores"][name] for row in last) / len(last)
        assert mean == pytest.approx(after[name]), "the metric is the mean over the prompts"


BY_DEFAULT = ("wd1", "spg", "stabledrl")
"""Methods that use advantages, log-probabilities or groups differently from UniGRPO. The others are trained on every
task in `tests/training/test_inner_updates.py`."""


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name in BY_DEFAULT else pytest.mark.slow) for name in METHODS]
)
def test_every_method_makes_a_step_of_all_tasks(tiny_unified_folder, prompt_file, tmp_path, method):
    """A step includes all parts from prompts to new weights, with the advantages of the method."""
    likelihood, objective, kl = METHODS[method]
    run = config(tiny_unified_folder, prompt_file)
    algo = AlgoConfig(
        likelihood=LikelihoodConfig(**likelihood),
        objective=ObjectiveConfig(**objective),
        kl=KLConfig(**kl),
        advantage=AdvantageConfig(name="wd1" if method == "wd1" else "group_norm"),
    )
    image = dataclasses.replace(run.rollout.image, guidance_scale=0.0)
    run = dataclasses.replace(run, algo=algo, rollout=dataclasses.replace(run.rollout, image=image))
    trainer = make_trainer(run, tmp_path, load_prompts(prompt_file), [])
    weights = list(trainer.trained_policy.model.parameters())
    before = [weight.clone() for weight in weights]
    metrics = trainer.train_step(0, Recorder())
    assert metrics["grad_norm"] > 0
    assert all(math.isfinite(value) for value in metrics.values())
    assert {f"kl/reference_nats/{task}" for task in TASKS} <= set(metrics)
    assert any(not torch.equal(weight, old) for weight, old in zip(weights, before, strict=True))


def test_generated_images_are_sent_only_to_rewards(tiny_unified_folder, prompt_file, tmp_path, monkeypatch):
    seen = {}

    def spied(worker, method):
        own = getattr(worker, method)

        @functools.wraps(own)
        def call(self, batch, *args, **kwargs):
            seen.setdefault(type(batch), []).append(pickle.dumps(batch))
            return own(self, batch, *args, **kwargs)

        monkeypatch.setattr(worker, method, call)

    spied(PolicyWorker, "update")
    spied(PolicyWorker, "log_likelihood")
    spied(ReferenceWorker, "log_likelihood")
    prompts = [p for p in load_prompts(prompt_file) if p.task in ("t2i", "r2i")]
    make_trainer(config(tiny_unified_folder, prompt_file), tmp_path, prompts, []).fit(Recorder())
    assert seen.keys() == {TrajectoryBatch, TrainBatch}
    assert not [sent for batches in seen.values() for sent in batches if b"StoredImage" in sent]


def generated(trainer: UniGRPOTrainer, run: RunConfig, requests: list[SampleRequest]) -> list[Rollout]:
    """Returns the samples of the policy for some requests."""
    batch = trainer.policy.map(PolicyWorker.generate, requests, 0, run.rollout.text, run.rollout.image)
    return batch.rollouts([request.prompt for request in requests])


def test_rollouts_of_each_task_have_their_own_spans(tiny_unified_folder, prompt_file, tmp_path):
    run = config(tiny_unified_folder, prompt_file)
    prompts = load_prompts(prompt_file)
    trainer = make_trainer(run, tmp_path, prompts, [])
    rollouts = generated(trainer, run, trainer.prompts.requests(0))
    vocabulary = trainer.policy.worker._generator.vocabulary  # type: ignore[attr-defined]
    first, stop = vocabulary.image_slice
    seen = set()
    for rollout in rollouts:
        task = rollout.key.task
        seen.add(task)
        image = rollout.token_ids[rollout.image_mask]
        assert len(image) == (16 if task in ("t2i", "r2i") else 0)
        assert bool(((image >= first) & (image < stop)).all())
        assert (rollout.image is not None) == (task in ("t2i", "r2i"))
        assert (rollout.raw_completion == "") == (task == "t2i")
        assert int(rollout.response_mask.sum()) == {"text": 8, "mmu": 8, "t2i": 16, "r2i": 24}[task]
        assert bool((rollout.commit_step[rollout.scored_mask] >= 0).all())
        if task == "r2i":
            thoughts = rollout.response_mask & ~rollout.image_mask
            assert rollout.commit_step[rollout.image_mask].min() > rollout.commit_step[thoughts].max()
    assert seen == set(TASKS)


@pytest.mark.parametrize(("of_policy", "of_run", "room"), [(64, 0, 64), (64, 70, 70), (None, 0, None)])
def test_an_image_is_generated_in_the_row_layout_of_training(
    tiny_unified_folder, prompt_file, tmp_path, of_policy, of_run, room
):
    folder = shutil.copytree(tiny_unified_folder, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"max_text_tokens": of_policy}))
    run = config(folder, prompt_file)
    run = dataclasses.replace(run, rollout=dataclasses.replace(run.rollout, max_text_tokens=of_run))
    prompts = [p for p in load_prompts(prompt_file) if p.task == "r2i"]
    trainer = make_trainer(run, tmp_path, prompts, [])
    requests = trainer.prompts.requests(0)
    rollouts = generated(trainer, run, requests)
    for rollout in rollouts:
        thoughts = int((rollout.response_mask & ~rollout.image_mask).nonzero()[-1]) + 1
        # The row has task token, text, start-of-image, codes and end-of-image. Without a length, the text has one
        # end-of-text.
        assert len(rollout.token_ids) == (thoughts + 1 if room is None else 1 + room) + 1 + 16 + 1


@pytest.mark.parametrize("task", TASKS)
def test_sampler_and_training_path_have_equal_log_probabilities(tiny_unified_folder, prompt_file, tmp_path, task):
    run = config(tiny_unified_folder, prompt_file)
    unguided = dataclasses.replace(run.rollout, image=dataclasses.replace(run.rollout.image, guidance_scale=0.0))
    run = dataclasses.replace(run, rollout=unguided)
    output = Recorder()
    prompts = [p for p in load_prompts(prompt_file) if p.task == task]
    make_trainer(run, tmp_path, prompts, []).fit(output)
    assert output.rows[1]["logprob_mismatch/largest_nats"] < 1e-4
    assert "logprob_mismatch/largest_nats" not in output.rows[2]


def test_log_probabilities_are_also_equal_for_thoughts_that_end_early(tiny_unified_folder, prompt_file, tmp_path):
    """Padding of thoughts is never sampled. It is masked while thoughts are sampled, and end-of-text afterwards."""
    run = config(tiny_unified_folder, prompt_file)
    text = TextSamplingConfig(max_new_tokens=12, num_denoising_steps=12, block_length=2, temperature=0.9)
    image = dataclasses.replace(run.rollout.image, guidance_scale=0.0)
    run = dataclasses.replace(run, rollout=dataclasses.replace(run.rollout, text=text, image=image))
    prompts = [p for p in load_prompts(prompt_file) if p.task == "r2i"]
    trainer = make_trainer(run, tmp_path, prompts, [])
    worker: Any = trainer.policy.worker  # type: ignore[attr-defined]
    with torch.no_grad():  # end-of-text becomes more likely
        head = worker._engine.model.transformer.ff_out.weight
        head[worker._generator.vocabulary.end_of_text_id] *= 3
    rollouts = [r for step in range(4) for r in generated(trainer, run, trainer.prompts.requests(step))]
    never = [r for r in rollouts if bool((r.response_mask & (r.commit_step < 0)).any())]
    assert len(never) > 10
    for step in never[0].commit_step.unique().tolist():
        for rollout in never:
            if step >= 0 and bool((rollout.commit_step == step).any()):
                row = _row_at(0, rollout, step)
                found = entry_log_probs(worker._engine.forward, [row], worker._scoring, torch.device("cpu"))
                expected = rollout.commit_log_probs[row.is_scored]
                torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-4)


def test_a_sampler_that_records_wrong_log_probabilities_stops_the_run(tiny_unified_folder, prompt_file, tmp_path):
    run = config(tiny_unified_folder, prompt_file)
    prompts = [p for p in load_prompts(prompt_file) if p.task == "text"]
    trainer = make_trainer(run, tmp_path, prompts, [])
    generate = PolicyWorker.generate

    def shifted(self, *arguments):
        batch = generate(self, *arguments)
        recorded = batch.trajectories.commit_log_probs
        wrong = dataclasses.replace(recorded, values=recorded.values - 1.0)
        return dataclasses.replace(batch, trajectories=dataclasses.replace(batch.trajectories, commit_log_probs=wrong))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicyWorker, "generate", shifted)
        with pytest.raises(
            LogprobMismatchError,
            match=r"by 1 nats a token of task text \(at most 1, on prompts.jsonl:\d\), more than "
            r"train.logprob_mismatch_limit 0.2",
        ):
            trainer.fit(Recorder())


@pytest.mark.wrong_types
@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        # One of eight tokens differs by 2.5, which is logged and does not stop the run.
        ([(0.4, 2.5, 4), (0.3, 0.1, 4)], ""),
        ([(0.8, 0.3, 4), (0.9, 0.3, 4)], r"differ by 0.213 nats a token of task text \(at most 0.3, on a:0\)"),
        ([(0.1, 0.1, 4), (math.nan, math.nan, 4)], r"differ by nan nats"),
    ],
)
def test_a_large_mean_difference_of_a_task_stops_the_run(tiny_unified_folder, prompt_file, gaps, message):
    run = config(tiny_unified_folder, prompt_file)
    check, samples = LogprobCheck(run, num_ranks=1), run.rollout.n_samples_per_prompt
    rollouts: list[Any] = [
        SimpleNamespace(key=SimpleNamespace(prompt_id=f"a:{n // samples}", task="text"))
        for n in range(len(gaps) * samples)
    ]
    found = [LogprobGap(total=total, largest=largest, num_tokens=tokens) for total, largest, tokens in gaps]
    step: Any = SimpleNamespace(rollouts=rollouts, mismatch=lambda _: found)
    if not message:
        assert check.metrics(0, step) == {
            "logprob_mismatch/largest_nats": 2.5, "logprob_mismatch/mean_nats": pytest.approx(0.7 / 8),
            "logprob_mismatch/skipped_tasks": 0.0,
        }  # fmt: skip
        return
    with pytest.raises(LogprobMismatchError, match=message):
        check.metrics(0, step)


def test_a_sample_does_not_depend_on_the_tasks_around_it(tiny_unified_folder, prompt_file, tmp_path):
    run = config(tiny_unified_folder, prompt_file)
    trainer = make_trainer(run, tmp_path, load_prompts(prompt_file), [])
    requests = trainer.prompts.requests(0)
    together = generated(trainer, run, requests)
    for request, one in zip(requests, together, strict=True):
        (alone,) = generated(trainer, run, [request])
        assert torch.equal(alone.token_ids, one.token_ids)
        assert (alone.key, alone.prompt) == (request.key, request.prompt)


def test_inputs_of_all_tasks_are_checked(tiny_unified_folder, prompt_file):
    inputs = check_inputs(config(tiny_unified_folder, prompt_file), asks_rewards=False)
    assert [p.task for p in inputs.prompts] == list(TASKS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"task": "t2a", "prompt": "x"}, r"bad.jsonl:1: no task 't2a'"),
        ({"task": "t2i", "prompt": " "}, r"bad.jsonl:1: 'prompt' must be a text that is not empty"),
        ({"task": "mmu", "prompt": "x"}, r"bad.jsonl:1: task 'mmu' needs \"image\""),
        ({"task": "mmu", "prompt": "x", "image": "nowhere.png"}, r"bad.jsonl:1: .*nowhere.png"),
    ],
)
def test_a_wrong_line_is_named(tiny_unified_folder, tmp_path, line, message):
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=message):
        check_inputs(config(tiny_unified_folder, str(file)), asks_rewards=False)


def test_a_task_that_no_reward_scores_is_refused(tiny_unified_folder, tmp_path):
    file = tmp_path / "t2i.jsonl"
    file.write_text('{"task": "t2i", "prompt": "x"}\n')
    run = config(tiny_unified_folder, str(file))
    terms = (RewardTermConfig(name=f"{__file__}:digits", tasks=("text", "mmu")),)
    with pytest.raises(ValueError, match="no reward with a weight scores task 't2i'"):
        check_inputs(RunConfig(**{**vars(run), "reward": RewardConfig(terms=terms)}))


def test_a_task_cannot_have_a_kl_without_a_reference():
    with pytest.raises(ValueError, match=r"algo.tasks.t2i.kl_coef is 0.1, but algo.kl.init_coef is 0"):
        AlgoConfig(kl=KLConfig(init_coef=0.0), tasks={"t2i": TaskConfig(kl_coef=0.1)})
