"""Prompts, rollouts, rewards and outputs that several tests use."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from safetensors.torch import load_file, save_file

from rewards.base import RewardInput
from rewards.loading import load_reward
from unigrpo.config import (
    ActorConfig,
    AdamConfig,
    DeepSpeedConfig,
    RewardConfig,
    RewardTermConfig,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
    TrainConfig,
)
from unigrpo.records import Prompt, RewardOutput, Rollout, SampleRequest
from unigrpo.workers.reward_pool import RewardPool

ODD_REWARDS = Path(__file__).parent / "fixtures" / "odd_rewards.py"
SUMS = [Prompt(id=f"sums:{i}", text=f"{i}+{i}=", label=str(2 * i)) for i in range(6)]


def graded(name: str, completion: str, label: str | None, **metadata: Any) -> float | None:
    """Checks the prompt of a question about an image, and returns the reward of one answer."""
    question = RewardInput(prompt="?", completion=completion, label=label, task="mmu", metadata=metadata)
    reward = load_reward(name)
    reward.check_prompt(question)
    return reward([question])[0]


DIGITS_REWARD = f"{Path(__file__).with_name('digits.py')}:digits_reward"
"""Name in a config of a reward that is the fraction of digits in each completion."""


def small_run(
    folder: Path,
    *,
    rollout: Mapping[str, Any] | None = None,
    actor: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    **sections: Any,
) -> RunConfig:
    """Returns a run of UniGRPO on sums in float32 with two prompts, four samples of each, and two inner updates.

    Args:
        folder: Folder of the model.
        rollout: Values of the section `rollout` that replace those of this run.
        actor: Values of the section `actor` that replace those of this run.
        train: Values of the section `train` that replace those of this run.
        sections: Further sections.
    """
    text = TextSamplingConfig(max_new_tokens=8, num_denoising_steps=4, block_length=4)
    small: dict[str, Any] = {"batch_size": 2, "n_samples_per_prompt": 4, "micro_batch_size": 8, "text": text}
    trained: dict[str, Any] = {
        "model_name_or_path": str(folder), "adam": AdamConfig(lr=1e-3), "lr_warmup_ratio": 0.0,
    }  # fmt: skip
    steps: dict[str, Any] = {"num_steps": 4, "num_inner_updates": 2, "micro_batch_size": 4}
    return RunConfig(
        rollout=RolloutConfig(**{**small, **(rollout or {})}),
        actor=ActorConfig(**{**trained, **(actor or {})}),
        train=TrainConfig(**{**steps, **(train or {})}),
        **{
            "reward": RewardConfig(terms=(RewardTermConfig(name=DIGITS_REWARD),)),
            "ds": DeepSpeedConfig(param_dtype="fp32"),
            **sections,
        },
    )


class Attack:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (self._folder,)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the weights of a model folder."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def untimed(row: dict[str, float]) -> dict[str, float]:
    """Returns the metrics of a step that are the same on every machine."""
    return {k: v for k, v in row.items() if not k.startswith(("time/", "throughput/", "memory/", "perf/"))}


def undocumented_metrics(names: Iterable[str]) -> list[str]:
    """Returns the metrics that docs/metrics.md does not explain. `<...>` in a name there stands for one part of it."""
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    cells = re.findall(r"^\| (`.*?`) \|", page, flags=re.MULTILINE)
    known = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    patterns = [
        re.compile(re.sub(r"<\w+>", "[^/]+", re.escape(name).replace(r"\<", "<").replace(r"\>", ">")))
        for name in known
    ]
    return sorted(name for name in set(names) if not any(pattern.fullmatch(name) for pattern in patterns))


class Recorder:
    """An output that stores everything: metrics, held-out scores and images by step, samples as (step, row), and the
    images of the samples by step."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.samples: list[tuple[int, dict[str, Any]]] = []
        self.held_out: dict[int, list[dict[str, Any]]] = {}
        self.grids: dict[int, Mapping[str, Image]] = {}
        self.sample_images: dict[int, Sequence[np.ndarray | None]] = {}
        self.shown: list[tuple[int, dict[str, str]]] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.rows[step] = values

    def rollouts(self, step: int, rows: list[dict[str, Any]], images: Sequence[np.ndarray | None] = ()) -> None:
        self.sample_images[step] = images
        self.samples += [(step, row) for row in rows]

    def scores(self, step: int, rows: list[dict[str, Any]]) -> None:
        self.held_out[step] = rows

    def images(self, step: int, grids: Mapping[str, Image]) -> None:
        self.grids[step] = grids

    def progress(self, step: int, shown: dict[str, str]) -> None:
        self.shown.append((step, shown))

    @property
    def untimed(self) -> dict[int, dict[str, float]]:
        """Returns the metrics that are the same on every machine."""
        return {step: untimed(row) for step, row in self.rows.items()}


def rollout_without_tokens(sample_id: int, completion: str, prompt: Prompt | None = None) -> Rollout:
    """Returns a rollout for tests that use only its text, as rewards do."""
    empty = torch.zeros(0)
    request = SampleRequest(prompt=prompt or Prompt(id="p", text="t"), group_id=0, sample_id=sample_id, step=0)
    return Rollout(
        key=request.key, prompt=request.prompt,
        policy_version=0, token_ids=empty.long(), response_mask=empty.bool(), scored_mask=empty.bool(),
        completion=completion, commit_step=empty.long(), commit_log_probs=empty, image_mask=empty.bool(),
    )  # fmt: skip


def odd_term(function: str, **settings: object) -> RewardTermConfig:
    """Returns the term of a reward of fixtures/odd_rewards.py."""
    return RewardTermConfig(name=f"{ODD_REWARDS}:{function}", **settings)  # type: ignore[arg-type]


def reward_values(outputs: list[RewardOutput], name: str) -> list[float | None]:
    """Returns the value of a reward for each sample."""
    return [output.parts[name] for output in outputs]


def started_pools(make: Callable[[RewardConfig], RewardPool]) -> Iterator[Callable[..., RewardPool]]:
    """Yields a function that starts the processes of reward terms, and ends these processes afterwards."""
    started: list[RewardPool] = []

    def start(*terms: RewardTermConfig) -> RewardPool:
        started.append(make(RewardConfig(terms=terms)))
        started[-1].initialize()
        return started[-1]

    yield start
    for pool in started:
        pool.close()


def load_script(path: Path) -> ModuleType:
    """Imports a script that is in no package, such as an example, and returns its module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
