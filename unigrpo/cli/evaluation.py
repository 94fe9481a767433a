"""The work of ``unigrpo evaluate``: it measures checkpoints on held-out prompts, as the evaluation in training
does."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from unigrpo import ConfigError
from unigrpo.checks.unigrpo import check_prompts, held_out_prompts
from unigrpo.cli.plan import counted, published_codes
from unigrpo.config import LoRAConfig, RunConfig, prompt_files
from unigrpo.config.typed_files import read_json
from unigrpo.cost.evaluation import evaluation_flops
from unigrpo.cost.hardware import gpu_of_this_machine
from unigrpo.cost.memory import ModelSize
from unigrpo.data.bad_samples import BadRows
from unigrpo.data.prompt_stream import repeat_prompts
from unigrpo.evaluation.held_out import EVALUATION_STEP, generate_balanced, summarize, ways_of_sampling
from unigrpo.evaluation.samples import SampleFile
from unigrpo.library.policy import Policy, torch_device
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.loading import with_local_folders
from unigrpo.models.vocabulary import PUBLISHED_CODEBOOK_SIZE
from unigrpo.records import Prompt, SampleRequest
from unigrpo.runs.config_file import changed_settings, config_text
from unigrpo.runs.progress import progress
from unigrpo.training.batching import micro_batches
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.workers.group import LocalGroup, WorkerGroup
from unigrpo.workers.policy import PolicyWorker
from unigrpo.workers.process_group import ProcessGroup
from unigrpo.workers.reward_pool import RewardPool, local_reward_pool

RESULTS = "results.json"
ASSUMED_MFU = 0.4
"""Fraction of a GPU's arithmetic that the estimate of the hours assumes."""


def evaluate(config: RunConfig, models: Sequence[str], output: Path, device_name: str, num_processes: int = 0) -> str:
    """Measures checkpoints and writes ``results.json``, ``results.md`` and ``samples.jsonl``.

    Args:
        config: The run whose held-out prompts, rewards and protocol are used.
        models: The checkpoints.
        output: Folder to write to, or the folder of an interrupted evaluation.
        device_name: `auto`, cpu, cuda, cuda:1 ...
        num_processes: Number of processes with a copy of the model each; 0 is one for each GPU.

    Returns:
        A Markdown table with one column for each checkpoint.

    Raises:
        ConfigError: The output holds results already or samples of other settings, or there are no held-out prompts.
    """
    if not config.eval.dataset:
        raise ConfigError("eval.dataset is empty; name the held-out prompts")
    bad = BadRows(config.data.max_bad_fraction)
    prompts = held_out_prompts(config, bad)
    configs = [replace(config, actor=replace(config.actor, model_name_or_path=model)) for model in models]
    valid = [check_prompts(prompts, one, bad, needs_weight=False).is_valid for one in configs]
    prompts = [prompt for prompt, *found in zip(prompts, *valid, strict=True) if all(found)]
    devices = _devices(device_name, num_processes)
    samples = _open_output(output, config, models)
    for number, one in enumerate(configs):  # whether they fit is said before the rewards start
        for name, requests in _requests(one, prompts).items():
            samples.missing(number, name, requests)
    _announce(configs, prompts, devices)
    with contextlib.closing(local_reward_pool(config.reward)) as rewards:
        rewards.initialize()
        results = [evaluate_model(n, one, prompts, rewards, devices, samples) for n, one in enumerate(configs)]
    record = {
        "dataset": ", ".join(file.path for file in prompt_files(config.eval.dataset)),
        "prompts": len(prompts),
        "seed": config.seed,
        "preset": config.eval.preset,
        "protocol": config.protocol.source,
        "rewards": [term.name for term in config.reward.terms],
        "models": dict(zip(models, results, strict=True)),
    }
    (output / RESULTS).write_text(json.dumps(record, indent=1) + "\n")
    table = results_table(models, results)
    (output / "results.md").write_text(table + "\n")
    return table


def _devices(name: str, num_processes: int) -> list[str]:
    """Returns the device of each process. Raises ConfigError if one cannot be used."""
    if name == "auto" and torch.cuda.is_available():
        number = num_processes or torch.cuda.device_count()
        return [f"cuda:{process % torch.cuda.device_count()}" for process in range(number)]
    return [str(torch_device(name))] * max(num_processes, 1)


def _open_output(output: Path, config: RunConfig, models: Sequence[str]) -> SampleFile:
    """Creates the folder, or opens the folder of an interrupted evaluation.

    Raises:
        ConfigError: It holds results, or samples of other settings or models.
    """
    if (output / RESULTS).exists():
        raise ConfigError(f"output {output} holds {RESULTS} already; name another folder")
    output.mkdir(parents=True, exist_ok=True)
    names = output / "models.json"
    if names.exists():
        changed = list(changed_settings(config, output))
        changed += ["--models"] * (
            read_json(names, list[str], ConfigError, "restore the file, or name another folder") != list(models)
        )
        if changed:
            raise ConfigError(
                f"output {output} holds samples of other settings ({', '.join(changed[:5])}); give the same "
                "settings to continue, or name another folder"
            )
    (output / "config.yaml").write_text(config_text(config))
    names.write_text(json.dumps(list(models)) + "\n")
    return SampleFile(output)


def _announce(configs: Sequence[RunConfig], prompts: Sequence[Prompt], devices: Sequence[str]) -> None:
    """Prints the protocol, the number of samples, and on GPUs the time that they take by their arithmetic."""
    config = configs[0]
    number = len(prompts) * sum(way.num_samples for way in ways_of_sampling(config)) * len(configs)
    processes = counted(len(devices), "process", "es")
    text = f"{number} samples in {processes} ({config.eval.preset}: {config.protocol.source})"
    hardware = gpu_of_this_machine() if devices[0].startswith("cuda") else None
    if hardware is None:
        sys.stdout.write(f"{text}\n")
        return
    flops = sum(_estimated_flops(one, prompts) for one in configs)
    hours = flops / (hardware.tflops * 1e12 * ASSUMED_MFU) / len(set(devices)) / 3600
    sys.stdout.write(f"{text}: about {hours:.1f} hours on {len(set(devices))} x {hardware.name}, or less\n")


def _estimated_flops(config: RunConfig, prompts: Sequence[Prompt]) -> float:
    """Returns the floating-point operations of all samples of a checkpoint, with prompts half as long as they may
    be."""
    size = ModelSize.of(load_config(config.actor.model_name_or_path), LoRAConfig())
    codes = published_codes(config.image.resolution)
    numbers = Counter(prompt.task for prompt in prompts)
    tokens = {task: config.data.max_prompt_tokens // 2 + (codes if task == "mmu" else 0) for task in numbers}
    return evaluation_flops(config, size, numbers, tokens, codes, PUBLISHED_CODEBOOK_SIZE)


def policy_worker(config: RunConfig, device: str) -> PolicyWorker:
    """Returns the worker of one process, with the checkpoint on its device."""
    policy = Policy.from_pretrained(
        config.actor.model_name_or_path,
        image_tokenizer=config.image.tokenizer,
        device=device,
        dtype="auto" if config.ds.param_dtype == "bf16" else "float32",
        attn_implementation=config.ds.attn_implementation,
        compile=config.ds.compile,
    )
    return PolicyWorker(config, LocalEngine(policy.model, config.actor, 1), policy.tokenizer, policy.image_tokenizer)


def _start(config: RunConfig, devices: Sequence[str]) -> WorkerGroup:
    of_workers = with_local_folders(config)
    if len(devices) == 1:
        return LocalGroup(policy_worker(of_workers, devices[0]))
    return ProcessGroup([partial(policy_worker, of_workers, device) for device in devices])


def evaluate_model(
    number: int,
    config: RunConfig,
    prompts: list[Prompt],
    rewards: RewardPool,
    devices: Sequence[str],
    samples: SampleFile,
) -> dict[str, float]:
    """Returns the metrics of one checkpoint. Samples that are in the file are not generated again.

    Args:
        number: Index of the checkpoint among the models.
        config: The run with this checkpoint.
        prompts: Held-out prompts.
        rewards: The rewards.
        devices: Device of each process.
        samples: Receives the samples as they are finished.
    """
    ways = ways_of_sampling(config)
    requests = _requests(config, prompts)
    waiting = {name: samples.missing(number, name, found) for name, found in requests.items()}
    if any(waiting.values()):
        shown = progress(f"model {number + 1}", sum(map(len, waiting.values())), unit="sample")
        num_finished = 0
        with contextlib.closing(_start(config, devices)) as policy, contextlib.closing(shown):
            part = config.rollout.micro_batch_size * policy.size
            for way in ways:
                missing = sorted(waiting[way.name], key=lambda one: one.prompt.task)
                for batch in micro_batches(missing, part):
                    rollouts = generate_balanced(policy, batch, 0, (way.text, way.image))
                    outputs, _ = rewards.score(rollouts)
                    samples.append((number, config.actor.model_name_or_path), way.name, rollouts, outputs)
                    num_finished += len(batch)
                    shown.show(num_finished, {})
    metrics: dict[str, float] = {}
    for name, found in requests.items():
        outputs = [samples.done[number, name, one.sample_id] for one in found]
        metrics |= summarize(found, outputs, config, rewards.names, name)[0]
    return metrics


def _requests(config: RunConfig, prompts: list[Prompt]) -> dict[str, list[SampleRequest]]:
    """Returns the samples of one checkpoint by the way of sampling."""
    return {way.name: repeat_prompts(prompts, way.num_samples, EVALUATION_STEP) for way in ways_of_sampling(config)}


def results_table(models: Sequence[str], results: Sequence[dict[str, float]]) -> str:
    """Returns a Markdown table with a row per metric and a column per checkpoint; with several tasks, one row for each
    task."""
    names = [name for name in results[0] if not any(other.startswith(f"{name}/") for other in results[0])]
    head = ["metric", *map(_short, models)]
    rows = [[name, *(f"{result[name]:.3f}" for result in results)] for name in names]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _short(model: str) -> str:
    """Returns the last two parts of a path, which distinguish runs whose folders are all called `policy`."""
    return "/".join(Path(model).parts[-2:])
