"""The directory of a run: config with commit and versions, metrics, samples, summary, and the progress bar."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL.Image import Image
from tqdm import tqdm

from unigrpo.config import BaseRunConfig
from unigrpo.runs.metrics import MetricsWriter

PACKAGES = ("unigrpo", "torch", "transformers", "deepspeed", "ray", "openrlhf")
SECRET_ENDINGS = ("api_key", "password", "secret", "token")


class RunDirectory:
    """Writes everything that a run writes; the trainer's :class:`~unigrpo.trainers.base.Output`."""

    def __init__(self, config: BaseRunConfig, first_step: int) -> None:
        """Opens the directory.

        Args:
            config: The run.
            first_step: Number of finished steps of a resumed run. Metrics and samples of later steps are deleted,
                because these steps run again.
        """
        self.path = Path(config.run_dir)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.yaml").write_text(config_text(config))
        self._writer = MetricsWriter(
            self.path, tensorboard=config.logger.tensorboard, wandb_project=config.logger.wandb_project
        )
        self._writer.truncate_after(first_step if first_step else -1)
        self._bar = tqdm(
            total=config.train.num_steps, initial=first_step, desc=config.title, unit="step", mininterval=0, ascii=" #"
        )

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._writer.write(step, values)

    def rollouts(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes samples to ``rollouts.jsonl``, and shows the texts of held-out samples in TensorBoard."""
        self._writer.write_rollouts(step, rows)
        texts = [row for row in rows if row["kind"] == "eval" and row["completion"]]
        table = [{"task": row["task"], "prompt": row["prompt"], "answer": row["completion"]} for row in texts]
        self._writer.write_texts(step, "eval/answers", table)

    def images(self, step: int, grids: Mapping[str, Image]) -> None:
        """Writes each grid to ``<name>/step_<step>.png``, and shows it in TensorBoard."""
        for name, grid in grids.items():
            (self.path / name).mkdir(exist_ok=True)
            grid.save(self.path / name / f"step_{step:08d}.png")
        self._writer.write_images(step, {f"eval/{name}": np.asarray(grid) for name, grid in grids.items()})

    def progress(self, step: int, shown: dict[str, str]) -> None:
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``."""
        (self.path / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")

    def close(self) -> None:
        """Ends the progress bar and flushes the writers."""
        self._bar.close()
        self._writer.close()


def check_unused(config: BaseRunConfig) -> None:
    """Refuses to write a new run over an old one.

    Raises:
        ValueError: The directory holds a run, and resuming was not requested.
    """
    if (Path(config.run_dir) / "metrics.jsonl").exists() and not config.ckpt.load_enable:
        raise ValueError(
            f"run_dir {config.run_dir} already holds a run; choose another --run_dir, or go on with it by "
            "--ckpt.load_enable true"
        )


def config_text(config: BaseRunConfig) -> str:
    """Returns the resolved config as YAML for ``--config``, with commit and versions as comments at the top."""
    lines = [f"# commit: {commit()}", f"# python: {sys.version.split()[0]}"]
    lines += [f"# {name}: {_version(name)}" for name in PACKAGES]
    plain = json.loads(json.dumps(_without_secrets(config.to_dict())))
    return "\n".join(lines) + "\n" + yaml.safe_dump(plain, sort_keys=False)


def commit() -> str:
    """Returns the commit of the running code: from the launcher, since a job's directory is no repository, or from
    git."""
    if told := os.environ.get("UNIGRPO_COMMIT"):
        return told
    command = ["git", "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False, timeout=10
        )
    except OSError:  # no git here
        return "unknown"
    return answer.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: "(hidden)" if str(k).lower().endswith(SECRET_ENDINGS) else _without_secrets(v) for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_without_secrets(v) for v in value]
    return value
