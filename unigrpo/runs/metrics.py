"""Metrics and samples of a run: always as JSON lines, and optionally in TensorBoard and Weights & Biases.

A metric's name is ``group/name_unit``: ``reward/total_mean``, ``kl/reference_nats``, ``time/update_seconds``.
"""

from __future__ import annotations

import html
import importlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from unigrpo import ConfigError
from unigrpo.config.typed_files import read_json_lines, read_lines, replace_text
from unigrpo.runs.config_file import flat_settings
from unigrpo.runs.scores import SCORES_FILE
from unigrpo.runs.tracking import check_tracking

METRICS_FILE = "metrics.jsonl"
ROLLOUTS_FILE = "rollouts.jsonl"
WANDB_ID_FILE = "wandb_id.txt"
STEP = "step"
"""Name under which W&B gets the step."""
ADVICE = "restore the file, or correct or delete this line"


class Step(TypedDict):
    """What every line has."""

    step: int


class SampleRow(Step, total=False):
    """A line of ``rollouts.jsonl``, as far as it is read again."""

    kind: str
    prompt_id: str
    task: str
    prompt: str
    label: str | None
    images: list[str]
    completion: str
    reward: float | None


class ScoreRow(Step):
    """A line of ``scores.jsonl``."""

    prompt_id: str
    task: str
    scores: dict[str, float]


Rows = list[dict[str, Any]]


class MetricsWriter:
    """Appends to the files of a run directory; every line is on disk when a call returns."""

    def __init__(
        self, folder: Path, *, tensorboard: bool, wandb_project: str = "", settings: dict[str, Any] | None = None
    ) -> None:
        """Opens the files.

        Args:
            folder: The run directory.
            tensorboard: Whether to write TensorBoard files.
            wandb_project: Weights & Biases project to which all is sent; the key is WANDB_API_KEY. Empty sends
                nothing.
            settings: The config of the run without secrets, which both show.

        Raises:
            ValueError: W&B was requested and is not installed or has no key.
        """
        self._folder = folder
        self._tensorboard = SummaryWriter(str(folder / "tensorboard")) if tensorboard else None
        if self._tensorboard is not None and settings:
            _write_hparams(self._tensorboard, settings)
        self._wandb = _start_wandb(wandb_project, folder, settings or {}) if wandb_project else None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of one step."""
        _append(self._folder / METRICS_FILE, [{"step": step, **values}])
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._log(step, values)

    def write_rollouts(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes samples of one step."""
        _append(self._folder / ROLLOUTS_FILE, [{"step": step, **row} for row in rows])

    def write_scores(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes the held-out scores of one evaluation."""
        _append(self._folder / SCORES_FILE, [{"step": step, **row} for row in rows])

    def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Sends images (uint8, height x width x 3) to TensorBoard and W&B; the caller writes the files."""
        if self._tensorboard is not None:
            for name, image in images.items():
                self._tensorboard.add_image(name, image, step, dataformats="HWC")
            self._tensorboard.flush()
        if self._wandb is not None:
            to_wandb = importlib.import_module("wandb").Image
            self._log(step, {name: to_wandb(image) for name, image in images.items()})

    def write_table(
        self,
        step: int,
        name: str,
        rows: Sequence[Mapping[str, str | float | None]],
        images: Sequence[np.ndarray | None] = (),
    ) -> None:
        """Sends a table to TensorBoard and W&B.

        Args:
            step: Number of finished steps.
            name: Name of the table.
            rows: Rows with the same columns. Without rows, nothing is sent.
            images: The image of each row, uint8 (H, W, 3), or None. W&B shows them in a last column, if there are any.
        """
        if not rows:
            return
        columns = list(rows[0])
        if self._tensorboard is not None:
            lines = [columns, ["---"] * len(columns), *([_cell(row[c]) for c in columns] for row in rows)]
            self._tensorboard.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)
            self._tensorboard.flush()
        if self._wandb is not None:
            wandb = importlib.import_module("wandb")
            data: list[list[Any]] = [[row[column] for column in columns] for row in rows]
            if any(image is not None for image in images):
                columns = [*columns, "image"]
                for cells, image in zip(data, images, strict=True):
                    cells.append(None if image is None else wandb.Image(image))
            self._log(step, {name: wandb.Table(columns=columns, data=data)})

    def _log(self, step: int, values: dict[str, Any]) -> None:
        # The step is a value, because W&B drops what comes with a smaller step of its own than the last one, as all
        # steps do that a resumed run makes again.
        if self._wandb is not None:
            self._wandb.log({STEP: step, **values})

    def truncate_after(self, step: int) -> None:
        """Deletes what was written after a step, because a resumed run writes it again. -1 deletes everything."""
        for name in (METRICS_FILE, ROLLOUTS_FILE, SCORES_FILE):
            path = self._folder / name
            if path.exists():
                rows = read_lines(path, Step, ConfigError, ADVICE) if step >= 0 else []
                replace_text(path, "".join(f"{line}\n" for line, row in rows if row["step"] <= step))

    def close(self) -> None:
        """Closes the writers."""
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(folder: Path) -> Rows:
    """Returns the metrics of a run directory, each step with its number as `step`, without a last line that was cut
    off by a kill; empty if there are none.

    Raises:
        ConfigError: A line holds something else.
    """
    return read_json_lines(folder / METRICS_FILE, Annotated[Step, dict[str, float]], ConfigError, ADVICE)


def read_rollouts(folder: Path) -> Rows:
    """Returns the samples of a run directory as :func:`read_metrics` does; a row is a :class:`SampleRow`."""
    return read_json_lines(folder / ROLLOUTS_FILE, SampleRow, ConfigError, ADVICE)


def read_scores(folder: Path) -> Rows:
    """Returns the held-out scores of a run directory as :func:`read_metrics` does; a row is a :class:`ScoreRow`."""
    return read_json_lines(folder / SCORES_FILE, ScoreRow, ConfigError, ADVICE)


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _cell(value: str | float | None) -> str:
    """Returns a cell of a Markdown table that shows a text unchanged, a number rounded, and nothing for None."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else f"{value:.4g}"
    return html.escape(text).replace("|", "&#124;").replace("\n", "<br>")


def _write_hparams(writer: SummaryWriter, settings: dict[str, Any]) -> None:
    """Writes the settings for TensorBoard's tab HParams, which compares runs by them and takes metrics from the
    scalars of the runs."""
    values = {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in flat_settings(settings).items()
    }
    _, session_start, _ = hparams(values, {})
    assert writer.file_writer is not None
    writer.file_writer.add_summary(session_start)
    writer.flush()


def _start_wandb(project: str, folder: Path, settings: dict[str, Any]) -> Any:
    """Starts the W&B run of a run directory, or continues it, using the id that the directory keeps."""
    check_tracking(project)
    kept = folder / WANDB_ID_FILE
    if not kept.exists():
        kept.write_text(uuid.uuid4().hex[:8] + "\n")
    run = importlib.import_module("wandb").init(
        project=project,
        name=folder.name,
        id=kept.read_text().strip(),
        resume="allow",
        config=settings,
        dir=str(folder),
    )
    run.define_metric(STEP)
    run.define_metric("*", step_metric=STEP)
    return run
