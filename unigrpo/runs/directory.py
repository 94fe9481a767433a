"""The directory of a run: config with commit and versions, metrics, samples, summary, and the progress bar."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from unigrpo import ConfigError
from unigrpo.config import BaseRunConfig
from unigrpo.runs.config_file import CONFIG_FILE, changed_settings, config_text, plain_config
from unigrpo.runs.errors import output_errors
from unigrpo.runs.machine import describe_machine
from unigrpo.runs.metrics import MetricsWriter
from unigrpo.runs.progress import progress


class RunDirectory:
    """Writes all files of a run. It is the trainer's :class:`~unigrpo.trainers.base.Output`."""

    def __init__(self, config: BaseRunConfig, first_step: int) -> None:
        """Opens the directory.

        Args:
            config: The run.
            first_step: Number of finished steps of a resumed run. Metrics and samples of later steps are deleted,
                because these steps run again.
        """
        self.path = Path(config.run_dir)
        with output_errors("the config", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            _keep_config(config, self.path, first_step)
            (self.path / CONFIG_FILE).write_text(config_text(config))
        self._writer = MetricsWriter(
            self.path,
            tensorboard=config.logger.tensorboard,
            wandb_project=config.logger.wandb_project,
            settings=plain_config(config),
        )
        self._writer.truncate_after(first_step if first_step else -1)
        self._progress = progress(config.title, config.train.num_steps, first_step)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        with output_errors("the metrics", self.path):
            self._writer.write(step, values)

    def rollouts(self, step: int, rows: list[dict[str, Any]], images: Sequence[np.ndarray | None] = ()) -> None:
        """Writes samples to ``rollouts.jsonl``, and shows held-out samples with their rewards and images as a table in
        TensorBoard, which has no images in tables, and Weights & Biases.

        Args:
            step: Number of finished steps.
            rows: Columns of each sample.
            images: The image that was generated for each row, uint8 (H, W, 3), or None; empty if no row has one.
        """
        with output_errors("the samples", self.path):
            self._writer.write_rollouts(step, rows)
        held_out = [number for number, row in enumerate(rows) if row["kind"] == "eval"]
        self._writer.write_table(
            step,
            "eval/samples",
            _table([rows[number] for number in held_out]),
            [images[number] for number in held_out] if images else (),
        )

    def scores(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Appends held-out scores to ``scores.jsonl``."""
        with output_errors("the scores", self.path):
            self._writer.write_scores(step, rows)

    def images(self, step: int, grids: Mapping[str, Image]) -> None:
        """Writes each grid to ``<name>/step_<step>.png``, and shows it in TensorBoard."""
        with output_errors("the images", self.path):
            for name, grid in grids.items():
                (self.path / name).mkdir(exist_ok=True)
                grid.save(self.path / name / f"step_{step:08d}.png")
        self._writer.write_images(step, {f"eval/{name}": np.asarray(grid) for name, grid in grids.items()})

    def progress(self, step: int, shown: dict[str, str]) -> None:
        self._progress.show(step, shown)

    def summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``, with the machine of this process."""
        summary = {**summary, "machine": describe_machine()}
        with output_errors("the summary", self.path):
            (self.path / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")

    def close(self) -> None:
        """Ends the progress bar and flushes the writers."""
        self._progress.close()
        with output_errors("the metrics", self.path):
            self._writer.close()


def _table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns task, prompt, answer and rewards of samples. All rows have the same columns."""
    names = list(dict.fromkeys(name for row in rows for name in row.get("rewards", ())))
    total = ["reward/total"] if any("reward" in row for row in rows) else []
    return [
        {"task": row["task"], "prompt": row["prompt"], "answer": row["completion"]}
        | dict.fromkeys(total, row.get("reward"))
        | {f"reward/{name}": row.get("rewards", {}).get(name) for name in names}
        for row in rows
    ]


def _keep_config(config: BaseRunConfig, folder: Path, first_step: int) -> None:
    """Keeps the config of the steps before a run was resumed, if the config differs afterwards."""
    kept = folder / f"config_until_step_{first_step:08d}.yaml"
    if first_step and not kept.exists() and changed_settings(config, folder):
        (folder / CONFIG_FILE).rename(kept)


def check_unused(config: BaseRunConfig) -> None:
    """Raises an error instead of overwriting an old run.

    Raises:
        ValueError: The directory holds a run, and resuming is not allowed.
    """
    if holds_run(config) and config.ckpt.load_enable is False:
        raise ConfigError(
            f"run_dir {config.run_dir} already holds a run; choose another --run_dir, or resume it with "
            "--ckpt.load_enable true"
        )


def holds_run(config: BaseRunConfig) -> bool:
    """Whether a run has written to the directory."""
    return (Path(config.run_dir) / "metrics.jsonl").exists()
