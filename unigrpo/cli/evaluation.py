"""The work of ``unigrpo evaluate``: checkpoints on held-out prompts, with the code of the evaluation in training."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unigrpo import ConfigError
from unigrpo.checks.unigrpo import check_prompts, held_out_prompts
from unigrpo.config import RunConfig, prompt_files
from unigrpo.data.bad_samples import BadRows
from unigrpo.evaluation.held_out import Measured, measure_all
from unigrpo.library.policy import torch_device
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.records import Prompt
from unigrpo.runs.config_file import config_text
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.workers.group import LocalGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.reward_pool import RewardPool, local_reward_pool

RESULTS = "results.json"


def evaluate(config: RunConfig, models: Sequence[str], output: Path, device_name: str) -> str:
    """Measures checkpoints and writes ``results.json``, ``results.md`` and ``samples.jsonl``.

    Args:
        config: The run whose held-out prompts, rewards and sampling are used.
        models: The checkpoints.
        output: Folder to write.
        device_name: `auto`, cpu, cuda, cuda:1 ...

    Returns:
        A Markdown table with one column for each checkpoint.

    Raises:
        ConfigError: The output holds results already, or there are no held-out prompts.
    """
    if (output / RESULTS).exists():
        raise ConfigError(f"output {output} holds {RESULTS} already; name another folder")
    if not config.eval.dataset:
        raise ConfigError("eval.dataset is empty; name the held-out prompts")
    bad = BadRows(config.data.max_bad_fraction)
    prompts = held_out_prompts(config, bad)
    configs = [replace(config, actor=replace(config.actor, model_name_or_path=model)) for model in models]
    usable = [check_prompts(prompts, one, bad, needs_weight=False).is_usable for one in configs]
    prompts = [prompt for prompt, *found in zip(prompts, *usable, strict=True) if all(found)]
    device = torch_device(device_name)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.yaml").write_text(config_text(config))
    with contextlib.closing(local_reward_pool(config.reward)) as rewards:
        rewards.initialize()
        results = [evaluate_model(one, prompts, rewards, device, output) for one in configs]
    record = {
        "dataset": ", ".join(file.path for file in prompt_files(config.eval.dataset)),
        "prompts": len(prompts),
        "seed": config.seed,
        "rewards": [term.name for term in config.reward.terms],
        "models": dict(zip(models, results, strict=True)),
    }
    (output / RESULTS).write_text(json.dumps(record, indent=1) + "\n")
    table = results_table(models, results)
    (output / "results.md").write_text(table + "\n")
    return table


def evaluate_model(
    config: RunConfig, prompts: list[Prompt], rewards: RewardPool, device: torch.device, output: Path
) -> dict[str, float]:
    """Returns the metrics of one checkpoint and appends its samples to the file of samples."""
    name = config.actor.model_name_or_path
    dtype = torch.bfloat16 if device.type == "cuda" and config.ds.param_dtype == "bf16" else torch.float32
    model = load_policy(name, dtype, config.ds.attn_implementation, compile=config.ds.compile)
    model.to(device)  # type: ignore[arg-type]
    image_tokenizer = find_image_tokenizer(config.image.tokenizer, name)
    if image_tokenizer is not None:
        image_tokenizer.to(device)  # type: ignore[arg-type]
    policy = PolicyWorker(config, LocalEngine(model, config.actor, 1), load_tokenizer(name), image_tokenizer)
    measured = measure_all(LocalGroup(policy), rewards, prompts, config)
    with (output / "samples.jsonl").open("a", encoding="utf-8") as lines:
        for kind, one in measured.items():
            lines.writelines(json.dumps(row) + "\n" for row in _rows(name, kind, one, output))
    return {key: value for one in measured.values() for key, value in one.metrics.items()}


def results_table(models: Sequence[str], results: Sequence[dict[str, float]]) -> str:
    """Returns a Markdown table with a row per metric and a column per checkpoint; with several tasks, one row for each
    task."""
    by_task = [name for name in results[0] if "/" in name or name.startswith("yes_")]
    if not any("/" in name for name in by_task):
        by_task = list(results[0])
    head = ["metric", *map(_short, models)]
    rows = [[name, *(f"{result[name]:.3f}" for result in results)] for name in by_task]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _short(model: str) -> str:
    """Returns the last two parts of a path, which distinguish runs whose folders are all called `policy`."""
    return "/".join(Path(model).parts[-2:])


def _rows(model: str, kind: str, measured: Measured, output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for rollout, rewards in zip(measured.rollouts, measured.outputs, strict=True):
        prompt = rollout.request.prompt
        row = {
            "model": model, "kind": kind, "prompt_id": prompt.id, "task": prompt.task, "prompt": prompt.text,
            "label": prompt.label, "completion": rollout.completion, "rewards": rewards.parts,
        }  # fmt: skip
        if rollout.image is not None:
            (output / "images").mkdir(exist_ok=True)
            number = sum(1 for _ in (output / "images").iterdir())
            row["image"] = f"images/{number:06d}.png"
            Image.fromarray(rollout.image).save(output / row["image"])
        rows.append(row)
    return rows
