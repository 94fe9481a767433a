"""Compares runs with and without rollout workers.

They are equal if the rollout workers have the current weights. If the weights are a step old, the ratios are
corrected.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch
from builders import SUMS, Recorder, small_run, untimed
from torch import Tensor
from transformers import AutoTokenizer

from unigrpo.batches import TrajectoryBatch
from unigrpo.config import (
    AdamConfig,
    RolloutConfig,
    RunConfig,
)
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Rollout
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.trainers.rollout_source import Generated, ReleasedError, StalenessError, rollouts_of
from unigrpo.trainers.unigrpo import UniGRPOTrainer
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.training.scoring import ScoringSettings
from unigrpo.workers.group import LocalGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reference import ReferenceWorker
from unigrpo.workers.reward import LocalRewards
from unigrpo.workers.rollout import RolloutWorker

NUM_INNER_UPDATES = 2


def run_config(folder: Path, num_workers: int, max_staleness: int = 0) -> RunConfig:
    return small_run(
        folder,
        rollout={"num_workers": num_workers, "max_staleness": max_staleness},
        actor={"adam": AdamConfig(lr=3e-3)},
        train={"num_inner_updates": NUM_INNER_UPDATES, "logprob_mismatch_steps": 1},
    )


class QueueChannel:
    """A channel between two threads."""

    def __init__(self, queue: Queue[Tensor], *, is_sender: bool) -> None:
        self._queue, self._is_sender = queue, is_sender

    def broadcast(self, tensor: Tensor) -> None:
        if self._is_sender:
            self._queue.put(tensor.clone())
        else:
            tensor.copy_(self._queue.get(timeout=30))


def make_trainer(run: RunConfig, path: Path) -> UniGRPOTrainer:
    folder = run.actor.model_name_or_path
    models = [MMadaModelLM.from_pretrained(folder) for _ in range(3)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = ScoringSettings.of_run(run, Vocabulary.from_pretrained_parts(models[0].config, tokenizer))
    engine = LocalEngine(models[0], run.actor, run.train.num_steps * run.train.num_inner_updates)
    policy = PolicyWorker(run, engine, tokenizer)
    rollout = None
    if run.rollout.num_workers:
        queue: Queue[Tensor] = Queue()
        with torch.no_grad():  # its weights equal those of the policy only after they are sent
            for weight in models[1].parameters():
                weight.zero_()
        worker = RolloutWorker(run, models[1].eval(), tokenizer)
        policy.channel = QueueChannel(queue, is_sender=True)
        worker.channel = QueueChannel(queue, is_sender=False)
        rollout = LocalGroup(worker)
    return UniGRPOTrainer(
        run,
        policy=LocalGroup(policy),
        reference=LocalGroup(ReferenceWorker(run, models[2].eval(), torch.device("cpu"), settings)),
        rollout=rollout,
        reward=LocalRewards(run.reward),
        prompts=SUMS,
        eval_prompts=[],
        checkpoints=CheckpointStore(path / "checkpoints", max_num=3),
    )


def policy_weights(trainer: UniGRPOTrainer) -> dict[str, Tensor]:
    model: MMadaModelLM = trainer.policy.worker._engine.model  # type: ignore[attr-defined]
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_rollouts_with_current_weights_give_a_run_bit_identical_to_one_without_workers(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    outputs, trainers = (Recorder(), Recorder()), []
    for num_workers, output in enumerate(outputs):
        trainers.append(make_trainer(run_config(tiny_model_folder, num_workers), tmp_path / str(num_workers)))
        trainers[-1].fit(output)
    without, with_workers = outputs
    assert len(without.rows) == 4
    for step, row in without.rows.items():
        assert untimed(with_workers.rows[step]) == untimed(row)
    assert without.rows[4]["grad_norm"] > 0
    for name, weight in policy_weights(trainers[0]).items():
        assert torch.equal(policy_weights(trainers[1])[name], weight), name


def test_a_step_ahead_old_log_probabilities_are_those_of_the_weights_that_generated(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_config(tiny_model_folder, 1, max_staleness=1)
    trainer = make_trainer(run, tmp_path)
    at_start: list[dict[str, Tensor]] = []
    scored: list[tuple[Sequence[Rollout], Sequence[tuple[Tensor, ...] | None]]] = []
    old_log_probs = Generated.old_log_probs

    def watched(self: Generated, rollouts: Sequence[Rollout], checked: bool) -> Sequence[tuple[Tensor, ...] | None]:
        at_start.append(policy_weights(trainer))
        scored.append((rollouts, old_log_probs(self, rollouts, checked=True)))
        return scored[-1][1]

    monkeypatch.setattr(Generated, "old_log_probs", watched)
    output = Recorder()
    trainer.fit(output)
    assert [row["rollout/staleness"] for row in output.rows.values()] == [0] + [NUM_INNER_UPDATES] * 3
    # The first weights generate the first rollouts, and the weights of the previous step generate each later ones.
    writers = [at_start[0], *at_start[:-1]]
    for step, (rollouts, old) in enumerate(scored):
        check = make_trainer(run_config(tiny_model_folder, 0), tmp_path / f"check{step}")
        check.policy.worker._engine.model.load_state_dict(writers[step])  # type: ignore[attr-defined]
        expected = check.policy.map(PolicyWorker.log_likelihood, TrajectoryBatch.of(rollouts)).rows()
        requests = check.prompts.requests(step)
        settings = (run.rollout.text, run.rollout.image)
        drawn = rollouts_of(check.policy.map(PolicyWorker.generate, requests, 0, *settings), requests)
        for rollout, got, log_probs, again in zip(rollouts, old, expected, drawn, strict=True):
            assert got is not None and log_probs is not None
            assert len(got) == NUM_INNER_UPDATES
            assert all(torch.equal(a, b) and len(a) > 0 for a, b in zip(got, log_probs, strict=True))
            assert torch.equal(rollout.token_ids, again.token_ids)
    # The first ratio of a stale step is therefore not 1, and measures the change of the policy.
    deviations = [row["ratio/first_update_deviation"] for row in output.rows.values()]
    assert deviations[0] == 0
    assert min(deviations[1:]) > 1e-4
    assert all(row["logprob_mismatch/largest_nats"] < 1e-4 for row in output.rows.values())


def test_the_next_rollouts_are_started_before_the_rewards_and_the_update(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(run_config(tiny_model_folder, 1, max_staleness=1), tmp_path)
    started = threading.Event()
    worker: RolloutWorker = trainer.source.workers.worker  # type: ignore[attr-defined]
    generate, score = worker.generate, trainer.reward.score
    waited: list[bool] = []

    def generates(requests: Any, *settings: Any) -> Any:
        if requests[0].step > 0:
            started.set()
        return generate(requests, *settings)

    def scores(rollouts: Any) -> Any:
        # This would wait without end if the next rollouts waited for the rewards.
        waited.append(started.wait(timeout=30))
        return score(rollouts)

    RolloutWorker.generate, restore = lambda _, *arguments: generates(*arguments), RolloutWorker.generate  # type: ignore
    trainer.reward.score = scores  # type: ignore[method-assign]
    try:
        trainer.train_step(0, Recorder())
    finally:
        RolloutWorker.generate = restore
    assert waited == [True]


def test_rollouts_that_are_older_than_allowed_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(run_config(tiny_model_folder, 1, max_staleness=1), tmp_path)
    trainer.train_step(0, Recorder())
    trainer.state.policy_version += 1  # an additional update
    with pytest.raises(StalenessError, match=r"3 optimizer steps old.*max_staleness 1 allows 2"):
        trainer.train_step(1, Recorder())


def test_log_probabilities_are_refused_once_the_next_rollouts_may_have_started(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(run_config(tiny_model_folder, 1, max_staleness=1), tmp_path)
    generated = trainer.source.generate(0, 0)
    assert len(generated.old_log_probs(generated.rollouts[:2], checked=True)) == 2
    generated.release()
    generated.release()  # this starts the next rollouts once
    for ask in (generated.mismatch, lambda rollouts: generated.old_log_probs(rollouts, checked=False)):
        with pytest.raises(ReleasedError, match="compute log-probabilities before `release`"):
            ask(generated.rollouts)
    following = trainer.source.generate(1, 0)
    assert {rollout.key.step for rollout in following.rollouts} == {1}


def test_a_source_returns_steps_in_any_order(tiny_model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(run_config(tiny_model_folder, 1, max_staleness=1), tmp_path)
    for step in (2, 0):
        generated = trainer.source.generate(step, 0)
        generated.release()
        expected = [request.sample_id for request in trainer.prompts.requests(step)]
        assert [r.key.sample_id for r in generated.rollouts] == expected
        assert {(r.key.step, r.policy_version) for r in generated.rollouts} == {(step, 0)}


def test_a_resumed_run_starts_with_rollouts_of_current_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = run_config(tiny_model_folder, 1, max_staleness=1)
    trainer = make_trainer(run, tmp_path)
    for step in range(2):
        trainer.train_step(step, Recorder())
        trainer.state.step = step + 1
    trainer.save({})
    again = make_trainer(run, tmp_path)
    assert again.resume() == 2
    assert again.train_step(2, Recorder())["rollout/staleness"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": -1}, "num_workers is -1; it must be 0 or more"),
        ({"num_workers": 1, "max_staleness": 2}, "max_staleness is 2; choose 0, or 1"),
        ({"max_staleness": 1}, "1 without rollout workers"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RolloutConfig(), **changes)
