"""The directory of a run: config with commit and versions, metrics, samples, summary, and the progress bar."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml
from tqdm import tqdm

from unigrpo.config import CheckpointConfig, LoggerConfig
from unigrpo.runs.image_grid import DRAWINGS, captioned_grid
from unigrpo.runs.metrics import MetricsWriter

PACKAGES = ("unigrpo", "torch", "transformers", "deepspeed", "ray", "openrlhf")
SECRET_ENDINGS = ("api_key", "password", "secret", "token")


class WrittenConfig(Protocol):
    """The settings of a run or stage that its directory needs."""

    @property
    def run_dir(self) -> str: ...
    @property
    def logger(self) -> LoggerConfig: ...
    @property
    def ckpt(self) -> CheckpointConfig: ...
    @property
    def train(self) -> Any: ...
    def to_dict(self) -> dict[str, Any]: ...


class RunDirectory:
    """Writes everything that a run writes; the trainer's :class:`~unigrpo.trainers.unigrpo.Output`."""

    title = "UniGRPO"

    def __init__(self, config: WrittenConfig, first_step: int) -> None:
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
            total=config.train.num_steps, initial=first_step, desc=self.title, unit="step", mininterval=0, ascii=" #"
        )

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._writer.write(step, values)

    def rollouts(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Writes samples to ``rollouts.jsonl``, and a grid of the images of held-out samples below ``drawings/``."""
        self._writer.write_rollouts(step, [{k: v for k, v in row.items() if k != "image"} for row in rows])
        columns = [(row["prompt"], (row["image"],)) for row in rows if row.get("image") is not None]
        if columns and rows[0]["kind"] == "eval":
            page = captioned_grid(columns)
            (self.path / DRAWINGS).mkdir(exist_ok=True)
            page.save(self.path / DRAWINGS / f"step_{step:08d}.png")
            self._writer.write_pictures(step, {"eval/drawn": np.asarray(page)})

    def progress(self, step: int, values: dict[str, float]) -> None:
        self._bar.set_postfix(self.shown(values), refresh=False)
        self._bar.update(step - self._bar.n)

    def shown(self, values: dict[str, float]) -> dict[str, str]:
        """Returns the values that the progress bar shows."""
        return {
            "reward": f"{values.get('reward/total_mean', math.nan):.3f}",
            "KL": f"{values.get('kl/reference_nats', 0.0):.4f}",
            "s/step": f"{values['time/step_seconds']:.2f}",
        }

    def summary(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json``."""
        (self.path / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")

    def close(self) -> None:
        """Ends the progress bar and flushes the writers."""
        self._bar.close()
        self._writer.close()


def check_unused(config: WrittenConfig) -> None:
    """Refuses to write a new run over an old one.

    Raises:
        ValueError: The directory holds a run, and resuming was not requested.
    """
    if (Path(config.run_dir) / "metrics.jsonl").exists() and not config.ckpt.load_enable:
        raise ValueError(
            f"run_dir {config.run_dir} already holds a run; choose another --run_dir, or go on with it by "
            "--ckpt.load_enable true"
        )


def config_text(config: WrittenConfig) -> str:
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
