"""Tests the training loop without a model: when it evaluates and saves, its files, and resuming from old
checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from builders import Recorder

from unigrpo import CheckpointError
from unigrpo.config import ActorConfig, CheckpointConfig, RunConfig, TrainConfig
from unigrpo.config.corpora import SourceConfig
from unigrpo.config.denoising import ModalityConfig, StageConfig
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.stopping import RunStopped, StopRequest
from unigrpo.trainers.base import Output, StepTimer, Trainer, TrainState
from unigrpo.trainers.denoising import StageState, StageTrainer
from unigrpo.trainers.unigrpo import UniGRPOState, UniGRPOTrainer
from unigrpo.workers.group import LocalGroup
from unigrpo.workers.reward import LocalRewards

OLD_CHECKPOINTS = Path(__file__).parent.parent / "fixtures" / "old_checkpoints"
"""Checkpoints that an earlier version wrote, in which each trainer had its own loop. The weights are a placeholder."""


class FakeWorker:
    """A worker that records the folders that it is asked to write and to read."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.loaded: list[str] = []
        self.exported: list[str] = []
        self._engine = self

    def work(self) -> None:
        time.sleep(0.001)

    def save(self, folder: Path) -> None:
        self.saved.append(folder.parent.name)
        folder.mkdir()

    def load(self, folder: Path) -> None:
        self.loaded.append(folder.name)

    rank = 1
    """Rank that does not write the tokenizer."""

    def export(self, folder: Path) -> None:
        number = len(self.exported)
        self.exported.append(folder.name)
        (folder / f"weights_{number}.bin").touch()

    def barrier(self) -> None:
        return None


class LoopTrainer(Trainer[RunConfig, TrainState]):
    """A trainer whose metric rises until the third step and falls afterwards."""

    evaluation_prefix = "eval/"

    def __init__(self, config: RunConfig, path: Path) -> None:
        self.worker = FakeWorker()
        self.group = LocalGroup(self.worker)
        super().__init__(config, TrainState(), {"policy": self.group, "rollout": None}, CheckpointStore(path, 2), 2)
        self.evaluated: list[int] = []

    def train_step(self, step: int, output: Output) -> dict[str, float]:
        self.group.call(FakeWorker.work)
        return {"loss/total": float(step)}

    def evaluate(self, output: Output) -> dict[str, float]:
        self.group.call(FakeWorker.work)
        self.evaluated.append(self.state.step)
        return {"accuracy": -abs(self.state.step - 3.0)}

    def shown(self, values: dict[str, float]) -> dict[str, str]:
        return {"loss": f"{values['loss/total']:.1f}"}


def loop_config(num_steps: int = 5) -> RunConfig:
    return RunConfig(
        train=TrainConfig(num_steps=num_steps), ckpt=CheckpointConfig(save_steps=3, best_metric_key="eval/accuracy")
    )


def test_evaluations_and_checkpoints_are_made_when_due_and_at_the_end(tmp_path):
    trainer, output = LoopTrainer(loop_config(), tmp_path), Recorder()
    summary = trainer.fit(output)
    assert trainer.evaluated == [0, 2, 4, 5]
    assert [step for step, row in output.rows.items() if "eval/accuracy" in row] == [0, 2, 4, 5]
    assert output.rows[0] == {"eval/accuracy": -3.0}
    assert [output.rows[step]["loss/total"] for step in (1, 2, 3, 4, 5)] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert output.shown == [(step + 1, {"loss": f"{step:.1f}"}) for step in range(5)]
    assert trainer.worker.saved == [".writing_step_00000003", ".writing_step_00000005"]
    assert json.loads((tmp_path / "best.json").read_text()) == {"checkpoint": "step_00000005", "metric": -2.0}
    assert summary["steps"] == 5
    assert summary["eval"] == {"before": {"accuracy": -3.0}, "after": {"accuracy": -2.0}}


def test_the_policy_is_replaced_completely_during_the_run_with_a_card_of_its_step(tmp_path):
    config = replace(loop_config(), run_dir=str(tmp_path / "run"), ckpt=CheckpointConfig(export_steps=2))
    trainer = LoopTrainer(config, tmp_path / "checkpoints")
    trainer.fit(Recorder())
    folder = tmp_path / "run" / "policy"
    assert trainer.worker.exported == [".policy.part"] * 2  # after steps 2 and 4; the command exports the last one
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "weights_1.bin"]
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]
    card = (folder / "README.md").read_text()
    assert "/run, step 4" in card
    assert "| eval/accuracy | -3.000 | -1.000 |" in card
    trainer.export(folder)
    assert "/run, step 5" in (folder / "README.md").read_text()


def test_a_resumed_run_continues_and_a_finished_run_is_evaluated_again(tmp_path):
    LoopTrainer(loop_config(3), tmp_path).fit(Recorder())
    resumed, output = LoopTrainer(loop_config(), tmp_path), Recorder()
    assert resumed.resume() == 3
    seconds = resumed.state.wall_seconds
    resumed.fit(output)
    assert resumed.worker.loaded == ["policy"]
    assert list(output.rows) == [4, 5]
    assert resumed.evaluated == [4, 5]
    assert resumed.state.wall_seconds > seconds > 0
    ended = LoopTrainer(loop_config(), tmp_path)
    assert ended.resume() == 5
    assert ended.fit(Recorder())["eval"] == {"before": {"accuracy": -3.0}, "after": {"accuracy": -2.0}}
    assert ended.evaluated == [5]


class SignalledTrainer(LoopTrainer):
    """A trainer that gets signals in a step or in an evaluation."""

    signals: Mapping[str, Sequence[signal.Signals]] = MappingProxyType({})

    def train_step(self, step: int, output: Output) -> dict[str, float]:
        for number in self.signals.get(f"step {step + 1}", ()):
            os.kill(os.getpid(), number)
        return super().train_step(step, output)

    def evaluate(self, output: Output) -> dict[str, float]:
        for number in self.signals.get(f"evaluation {self.state.step}", ()):
            os.kill(os.getpid(), number)
        return super().evaluate(output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_after_a_signal_the_step_is_finished_and_saved_and_the_run_resumes_exactly(tmp_path, number):
    before = signal.getsignal(number)
    trainer, stop, output = SignalledTrainer(loop_config(), tmp_path), StopRequest(), Recorder()
    trainer.signals = {"step 2": [number]}
    with stop.handled(), pytest.raises(RunStopped, match="after step 2 of 5"):
        trainer.fit(output, stop)
    assert (stop.received, stop.ending_signal, signal.getsignal(number)) == (number, number, before)
    assert (list(output.rows), trainer.evaluated) == ([0, 1, 2], [0, 2])
    assert trainer.worker.saved == [".writing_step_00000002"]
    resumed = LoopTrainer(loop_config(), tmp_path)
    assert resumed.resume() == 2
    summary = resumed.fit(output)
    straight = Recorder()
    assert LoopTrainer(loop_config(), tmp_path / "straight").fit(straight)["eval"] == summary["eval"]
    assert [row["loss/total"] for row in list(output.rows.values())[1:]] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [list(row) for row in output.rows.values()] == [list(row) for row in straight.rows.values()]


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path):
    trainer, stop = SignalledTrainer(loop_config(), tmp_path), StopRequest()
    trainer.signals = {"step 5": [signal.SIGTERM]}
    with stop.handled():
        assert trainer.fit(Recorder(), stop)["steps"] == 5


@pytest.mark.parametrize("signals", [{"step 2": [signal.SIGUSR1, signal.SIGTERM]}, {"evaluation 0": [signal.SIGTERM]}])
def test_a_second_signal_and_one_outside_of_a_step_end_the_run_at_once(tmp_path, signals):
    trainer, stop = SignalledTrainer(loop_config(), tmp_path), StopRequest()
    trainer.signals = signals
    with stop.handled(), pytest.raises(KeyboardInterrupt):
        trainer.fit(Recorder(), stop)
    assert stop.ending_signal == next(iter(signals.values()))[0]
    assert trainer.worker.saved == []


def test_only_the_work_of_workers_within_a_step_counts_for_it(tmp_path):
    trainer, output = LoopTrainer(loop_config(2), tmp_path), Recorder()
    recorded, pop = [], trainer.group.stats.pop

    def recording(role: str, step_seconds: float) -> dict[str, float]:
        recorded.append(dict(trainer.group.stats._work))
        return pop(role, step_seconds)

    trainer.group.stats.pop = recording
    trainer.fit(output)
    assert [list(work) for work in recorded] == [["work"], ["work"]]
    for step in (1, 2):
        row = output.rows[step]
        assert row["perf/policy_work_seconds"] + row["perf/policy_idle_seconds"] == row["time/step_seconds"]


def test_a_timer_adds_up_the_parts_of_a_phase():
    timer = StepTimer(("generate", "update"))
    for _ in range(2):
        with timer.phase("generate"):
            time.sleep(0.001)
    metrics = timer.metrics()
    assert metrics["time/step_seconds"] >= metrics["time/generate_seconds"] >= 0.002
    assert metrics["time/update_seconds"] == 0.0


def test_a_checkpoint_of_a_unigrpo_run_of_an_earlier_version_is_resumed(tmp_path):
    shutil.copytree(OLD_CHECKPOINTS / "unigrpo", tmp_path / "checkpoints")
    worker = FakeWorker()
    trainer = UniGRPOTrainer(
        replace(RunConfig(), actor=ActorConfig(num_gpus_per_node=2)), policy=LocalGroup(worker), reference=None,
        reward=LocalRewards(RunConfig().reward), prompts=[], eval_prompts=[],
        checkpoints=CheckpointStore(tmp_path / "checkpoints", 2),
    )  # fmt: skip
    assert trainer.resume() == 20
    assert trainer.state.policy_version == 80
    assert trainer.state.before == {"math_answer_greedy": 0.25, "reward_total": 0.5}
    assert (trainer.state.wall_seconds, trainer.state.num_policy_ranks) == (123.4, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wall_seconds": "long"}, "wall_seconds is 'long', expected a number"),
        ({"before": {"a": None}}, "before.a is None, expected a number"),
        ({"epoch": 3}, "'epoch' is not known"),
    ],
)
def test_an_invalid_state_is_named(tmp_path, change, message):
    folder = tmp_path / "checkpoints"
    shutil.copytree(OLD_CHECKPOINTS / "unigrpo", folder)
    (mark,) = folder.glob("step_*/complete.json")
    content = json.loads(mark.read_text())
    mark.write_text(json.dumps({**content, "state": {**content["state"], **change}}))
    trainer = UniGRPOTrainer(
        RunConfig(), policy=LocalGroup(FakeWorker()), reference=None, reward=LocalRewards(RunConfig().reward),
        prompts=[], eval_prompts=[], checkpoints=CheckpointStore(folder, 2),
    )  # fmt: skip
    with pytest.raises(
        CheckpointError, match=rf"step_00000020: the state of the trainer .* cannot be used: {message}"
    ):
        trainer.resume()


def test_a_checkpoint_of_a_stage_of_an_earlier_version_is_resumed(tmp_path):
    shutil.copytree(OLD_CHECKPOINTS / "denoising", tmp_path / "checkpoints")
    lm = ModalityConfig(batch_size=2, sources={"text": SourceConfig(kind="text", task="lm", path="text.jsonl")})
    worker = FakeWorker()
    trainer = StageTrainer(
        StageConfig(actor=ActorConfig(num_gpus_per_node=2), lm=lm), workers=LocalGroup(worker), validation_prompts=[],
        checkpoints=CheckpointStore(tmp_path / "checkpoints", 2),
    )  # fmt: skip
    assert trainer.resume() == 20
    assert worker.loaded == ["policy"]
    assert trainer.state.before == {"validation/t2i_nats_per_token": 6.5}
    assert trainer.state.broken == {"broken/mmu/vqa": 3.0}
    assert (trainer.state.wall_seconds, trainer.state.num_policy_ranks) == (123.4, 2)


@pytest.mark.parametrize("name", ["unigrpo", "denoising"])
def test_a_checkpoint_keeps_the_names_of_an_older_version(name):
    old = json.loads((OLD_CHECKPOINTS / name / "step_00000020" / "complete.json").read_text())
    state = {"unigrpo": UniGRPOState, "denoising": StageState}[name]()
    assert set(vars(state)) - {"num_skipped"} == set(old["state"])
