"""The loop of every trainer: steps, evaluations, checkpoints, summary. It calls worker groups and not Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from PIL.Image import Image

from unigrpo import CheckpointError
from unigrpo.config import BaseRunConfig
from unigrpo.config.typed_files import WrongContent, build
from unigrpo.records import Prompt
from unigrpo.runs.checkpoints import COMPLETE_FILE, CheckpointStore
from unigrpo.runs.directory import RunDirectory
from unigrpo.runs.errors import output_errors
from unigrpo.runs.model_card import Progress, write_model_card
from unigrpo.runs.stopping import RunStopped, StopRequest
from unigrpo.workers.group import WorkerGroup
from unigrpo.workers.trained import TrainedWorker


@runtime_checkable
class Output(Protocol):
    """Destination of the metrics and samples of a run; see :mod:`unigrpo.runs.directory`."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of one step."""
        ...

    def rollouts(self, step: int, rows: list[dict[str, Any]], images: Sequence[np.ndarray | None] = ()) -> None:
        """Writes samples of one step.

        Args:
            step: Number of finished steps.
            rows: Columns of each sample; `kind` says whether it belongs to training or to an evaluation.
            images: The image that was generated for each row, uint8 (H, W, 3), or None; empty if they are not shown.
        """
        ...

    def scores(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes the held-out scores of each prompt, from which two evaluations are compared."""
        ...

    def images(self, step: int, grids: Mapping[str, Image]) -> None:
        """Writes grids of images of one step, by name."""
        ...

    def progress(self, step: int, shown: dict[str, str]) -> None:
        """Shows a finished step to the user."""
        ...


class NoOutput:
    """An :class:`Output` that writes nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Writes nothing."""

    def rollouts(self, step: int, rows: list[dict[str, Any]], images: Sequence[np.ndarray | None] = ()) -> None:
        """Writes nothing."""

    def scores(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes nothing."""

    def images(self, step: int, grids: Mapping[str, Image]) -> None:
        """Writes nothing."""

    def progress(self, step: int, shown: dict[str, str]) -> None:
        """Shows nothing."""


@dataclass
class TrainState:
    """The state that a resumed run needs besides weights. Random numbers and data order are functions of the step.

    Checkpoints contain these names, so a change of a name needs a reader for the old one.
    """

    step: int = 0
    """Number of finished steps."""
    before: dict[str, float] = field(default_factory=dict[str, float])
    """Metrics of the evaluation before the first step."""
    wall_seconds: float = 0.0
    """Training time of all sessions of the run."""
    num_policy_ranks: int = 1
    """Number of ranks over which the optimizer states are sharded: in a checkpoint, of the ranks that wrote it."""


Config = TypeVar("Config", bound=BaseRunConfig)
State = TypeVar("State", bound=TrainState)


class Trainer(ABC, Generic[Config, State]):
    """Runs the steps of a run on its worker groups. A subclass defines a step and an evaluation."""

    phases: ClassVar[Sequence[str]] = ()
    """Phases of a step that :attr:`timer` times."""
    evaluation_prefix: ClassVar[str] = ""
    """Prefix of the names of an evaluation's metrics among those of a step."""

    def __init__(
        self,
        config: Config,
        state: State,
        groups: Mapping[str, WorkerGroup | None],
        checkpoints: CheckpointStore,
        evaluation_steps: int,
    ) -> None:
        """Sets up the loop.

        Args:
            config: The run.
            state: The state before the first step.
            groups: Workers by role, those of the trained model first; None for a role without workers.
            checkpoints: Store of the checkpoints.
            evaluation_steps: Number of steps from one evaluation to the next; 0 evaluates only before and after the
                run.
        """
        self.config = config
        self.state = state
        self.groups = {role: group for role, group in groups.items() if group is not None}
        self.checkpoints = checkpoints
        self.timer = StepTimer(self.phases)
        self._evaluation_steps = evaluation_steps
        self._progress = Progress(step=state.step)
        """The training progress of the present weights, for the model card."""

    @abstractmethod
    def train_step(self, step: int, output: Output) -> dict[str, float]:
        """Makes one step and returns its metrics, without those of :attr:`timer` and of the workers."""

    @abstractmethod
    def evaluate(self, output: Output) -> dict[str, float]:
        """Writes samples of the present model and returns its held-out metrics; empty without held-out data."""

    @abstractmethod
    def shown(self, values: dict[str, float]) -> dict[str, str]:
        """Returns the few metrics of a step that the progress bar shows, formatted."""

    def run(self, stop: StopRequest | None = None) -> dict[str, Any]:
        """Resumes or begins the run, makes its steps, and writes the run directory with the trained model.

        Args:
            stop: See :meth:`fit`, also for the result and the errors.
        """
        first_step = 0 if self.config.ckpt.load_enable is False else self.resume()
        with contextlib.closing(RunDirectory(self.config, first_step)) as output:
            summary = self.fit(output, stop)
            self.export(Path(self.config.run_dir).resolve() / "policy")
            output.summary(summary)
        return summary

    def fit(self, output: Output, stop: StopRequest | None = None) -> dict[str, Any]:
        """Runs all remaining steps, with evaluations and checkpoints.

        Args:
            output: Destination of metrics and samples.
            stop: Records signals that stop the run; None if signals are not handled.

        Returns:
            The summary: steps, seconds, and the held-out metrics before and after.

        Raises:
            RunStopped: A signal stopped the run. The current step was finished and saved, and there are more steps.
        """
        stop = stop or StopRequest()
        config, state = self.config, self.state
        started = time.monotonic() - state.wall_seconds
        after = state.before
        if state.step in (0, config.train.num_steps):  # a resumed run that had ended measures once more
            after = self.evaluate(output)
            state.before = state.before or after
            if after and state.step == 0:  # later evaluations stand in the metrics of their step
                output.metrics(0, self._prefixed(after))
        self._note_progress(after)
        for step in range(state.step, config.train.num_steps):
            with stop.delayed():
                values = self._timed_step(step, output)
                state.step = step + 1
                state.wall_seconds = time.monotonic() - started
                is_last = state.step == config.train.num_steps
                if is_last or self._is_due(self._evaluation_steps):
                    after = self.evaluate(output)
                    values |= self._prefixed(after)
                output.metrics(state.step, values)
                output.progress(state.step, self.shown(values))
                if is_last or stop.received or self._is_due(config.ckpt.save_steps):
                    self.save(values)
                self._note_progress(after)
                if not is_last and self._is_due(config.ckpt.export_steps):
                    self.export(Path(config.run_dir).resolve() / "policy")
            if stop.received and not is_last:
                raise RunStopped(f"after step {state.step} of {config.train.num_steps}")
        return {
            "steps": state.step,
            "wall_seconds": round(state.wall_seconds, 1),
            "eval": {"before": state.before, "after": after},
        }

    def save(self, values: dict[str, float]) -> None:
        """Writes a checkpoint of the present state. The step's metrics determine whether it is the best."""
        best_metric = values.get(self.config.ckpt.best_metric_key)
        self.checkpoints.save(self.state.step, dataclasses.asdict(self.state), self._save_model, best_metric)

    def resume(self) -> int:
        """Resumes from the newest complete checkpoint. Returns the number of finished steps, 0 without a
        checkpoint."""
        found = self.checkpoints.latest()
        if found is None:
            return 0
        try:
            self.state = build(type(self.state), found.state)
        except WrongContent as error:
            raise CheckpointError(
                f"{found.folder}: the state of the trainer in {COMPLETE_FILE} cannot be used: {error}; was it written "
                "by another version?"
            ) from error
        self.load_model(found.folder)
        self.state.num_policy_ranks = self.config.actor.num_ranks
        self._note_progress({})
        return self.state.step

    def load_model(self, folder: Path) -> None:
        """Loads weights and optimizer states from a checkpoint's folder; :attr:`state` is loaded already."""
        self._trained.call(TrainedWorker.load, folder)

    def export(self, folder: Path) -> None:
        """Writes the trained model as a Hugging Face folder with a model card. An older folder is replaced when the
        new one is complete.

        Raises:
            OutputError: The folder could not be written.
        """
        part, old = (folder.with_name(f".{folder.name}.{mark}") for mark in ("part", "old"))
        with output_errors("the policy", folder.parent):
            for leftover in (part, old):
                shutil.rmtree(leftover, ignore_errors=True)
            part.mkdir(parents=True)
            self._trained.call(TrainedWorker.export, part)
            write_model_card(part, self.config, self._progress)
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
            shutil.rmtree(old, ignore_errors=True)

    def _note_progress(self, after: dict[str, float]) -> None:
        """Records the training progress for the model card, with the metrics of the last evaluation."""
        before = self._prefixed(self.state.before)
        self._progress = Progress(step=self.state.step, before=before, after=self._prefixed(after))

    @property
    def _trained(self) -> WorkerGroup:
        return next(iter(self.groups.values()))

    def _save_model(self, folder: Path) -> None:
        self._trained.call(TrainedWorker.save, folder)

    def _timed_step(self, step: int, output: Output) -> dict[str, float]:
        """Returns a step's metrics with its seconds and with the cost of each role's workers."""
        for group in self.groups.values():
            group.stats.clear()  # what evaluations and checkpoints cost belongs to no step
        self.timer = StepTimer(self.phases)
        values = self.train_step(step, output) | self.timer.metrics()
        for role, group in self.groups.items():
            values |= group.stats.pop(role, values["time/step_seconds"])
        return values

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.state.step % every == 0

    def _prefixed(self, values: dict[str, float]) -> dict[str, float]:
        return {f"{self.evaluation_prefix}{name}": value for name, value in values.items()}


class StepTimer:
    """Seconds of one step and of its phases."""

    def __init__(self, phases: Sequence[str]) -> None:
        self._started = time.monotonic()
        self._seconds: dict[str, float] = dict.fromkeys(phases, 0.0)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside the context to a phase."""
        started = time.monotonic()
        yield
        self._seconds[name] += time.monotonic() - started

    def metrics(self) -> dict[str, float]:
        """Returns ``time/<phase>_seconds`` of every phase, and ``time/step_seconds`` since the step began."""
        seconds = {f"time/{name}_seconds": value for name, value in self._seconds.items()}
        return seconds | {"time/step_seconds": time.monotonic() - self._started}


def prompt_row(kind: str, prompt: Prompt, completion: str) -> dict[str, Any]:
    """Returns the columns of a sample in ``rollouts.jsonl`` that all trainers write.

    Args:
        kind: `train`, or `eval` for held-out prompts.
        prompt: The prompt that was answered.
        completion: The model's text.
    """
    return {
        "kind": kind,
        "prompt_id": prompt.id,
        "task": prompt.task,
        "prompt": prompt.text,
        "label": prompt.label,
        "images": list(prompt.images),
        "completion": completion,
    }
