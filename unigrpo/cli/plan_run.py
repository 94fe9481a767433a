"""The lines of ``--dry_run`` about a whole run: rewards, duration, disk, downloads, and what to change first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unigrpo import ConfigError
from unigrpo.config import BaseRunConfig, RewardTermConfig, RunConfig, prompt_files
from unigrpo.config.denoising import StageConfig
from unigrpo.cost.disk import DiskPlan, free_gb
from unigrpo.cost.downloads import Download
from unigrpo.cost.hardware import Hardware
from unigrpo.cost.rewards import RewardTime, reward_time
from unigrpo.data.prompt_stream import prompt_weights
from unigrpo.records import Prompt
from unigrpo.runs.checkpoints import checkpoint_path
from unigrpo.workers.reward import applies_to

DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class PromptFractions:
    """The mean composition of the prompts of a step."""

    tasks: dict[str, float]
    """Fraction of each task."""
    rewards: dict[str, float]
    """Fraction of the samples that each reward scores."""


def prompt_fractions(config: RunConfig, prompts: Sequence[Prompt]) -> PromptFractions:
    """Returns the fractions that follow from the weights of the files and the prompts in them."""
    weights = prompt_weights(config.data)
    sizes: dict[str, int] = {}
    for prompt in prompts:
        sizes[prompt.dataset] = sizes.get(prompt.dataset, 0) + 1
    total = sum(weights[name] for name in sizes) if weights else len(prompts)
    tasks: dict[str, float] = {}
    rewards = dict.fromkeys((term.name for term in config.reward.terms), 0.0)
    for prompt in prompts:
        fraction = (weights[prompt.dataset] / sizes[prompt.dataset] if weights else 1.0) / total
        tasks[prompt.task] = tasks.get(prompt.task, 0.0) + fraction
        for term in config.reward.terms:
            rewards[term.name] += fraction * applies_to(term, prompt)
    return PromptFractions(tasks=tasks, rewards=rewards)


def assumed_fractions(config: RunConfig, tasks: Sequence[str]) -> PromptFractions:
    """Returns the fractions without reading the prompts: the weights of files with a task and a weight, or otherwise
    equal fractions of all tasks. A reward that only scores prompts with or without a gold answer is counted for
    all."""
    files = prompt_files(config.data.prompt_dataset)
    fractions = dict.fromkeys(tasks, 1.0)
    if all(file.task and file.weight is not None for file in files) and {file.task for file in files} >= set(tasks):
        fractions = {task: sum(file.weight or 0.0 for file in files if file.task == task) for task in tasks}
    total = sum(fractions.values())
    fractions = {task: fraction / total for task, fraction in fractions.items()}
    rewards = {
        term.name: sum(fraction for task, fraction in fractions.items() if not term.tasks or task in term.tasks)
        for term in config.reward.terms
    }
    return PromptFractions(tasks=fractions, rewards=rewards)


def reward_times(
    config: RunConfig, fractions: PromptFractions, hardware: Hardware, mfu: float, num_gpus: int
) -> dict[str, RewardTime]:
    """Returns the time of each reward with a known model, for a number of policy GPUs.

    Raises:
        ConfigError: A call misses its deadline even with a single sample, or with ``batch_size`` samples.
    """
    found: dict[str, RewardTime] = {}
    for term in config.reward.terms:
        samples = config.num_generated_per_step * fractions.rewards[term.name]
        time = reward_time(term, samples, hardware, mfu, num_gpus)
        if time is not None and samples:
            found[term.name] = time
            _check_deadline(term, time)
    return found


def _check_deadline(term: RewardTermConfig, time: RewardTime) -> None:
    size = max(term.batch_size, 1)
    if time.seconds_per_sample * size > term.timeout_seconds:
        raise ConfigError(
            f"reward.terms: {term.name} needs about {time.seconds_per_sample:.2g} s for a sample, so that a call of "
            f"{size} misses its timeout_seconds {term.timeout_seconds:g}; leave out batch_size, raise "
            "timeout_seconds, or set on_policy_gpus"
        )


def reward_time_lines(config: RunConfig, times: Mapping[str, RewardTime]) -> list[str]:
    """Returns a line for each reward whose time is known."""
    lines: list[str] = []
    terms = {term.name: term for term in config.reward.terms}
    for name, time in times.items():
        where = (
            "on the policy's GPUs" if terms[name].on_policy_gpus else "on GPUs" if terms[name].num_gpus else "on CPUs"
        )
        lines.append(
            f"            {name}: {time.samples:.0f} samples a step x {time.seconds_per_sample:.2g} s in "
            f"{time.num_processes} process{'es' * (time.num_processes > 1)} {where}: {time.seconds:.2g} s"
        )
    return lines


def whole_run_lines(config: BaseRunConfig, step_seconds: float, evaluation_seconds: float) -> list[str]:
    """Returns the lines about the duration of the steps and the evaluations."""
    every = config.eval.steps if isinstance(config, RunConfig) else 0
    number = 2 + (config.train.num_steps // every - 1 if every else 0)
    evaluations = number * evaluation_seconds
    lines = [
        f"whole run   {config.train.num_steps} steps x {step_seconds:.1f} s = "
        f"{_duration(config.train.num_steps * step_seconds)}"
    ]
    if evaluations:
        lines.append(f"            and {number} evaluations x {evaluation_seconds:.0f} s = {_duration(evaluations)}")
    return lines


def _duration(seconds: float) -> str:
    return f"{seconds / DAY:.1f} days" if seconds >= 2 * DAY else f"{seconds / 3600:.1f} hours"


def disk_lines(config: BaseRunConfig, disk: DiskPlan, free: float) -> list[str]:
    """Returns the lines about the disk space that a run needs and that is free."""
    lines = [
        f"disk        {disk.checkpoint_gb:.1f} GB for a checkpoint; {disk.peak_gb:.1f} GB at the peak: "
        f"{disk.num_checkpoints} checkpoints (ckpt.max_num {config.ckpt.max_num}, the one being written"
        f"{', the best' * bool(config.ckpt.best_metric_key)}) and {disk.policy_gb:.1f} GB for policy",
        f"            {free:.1f} GB are free at {checkpoint_path(config)}",
    ]
    if free < disk.peak_gb:
        lines.append("            NOT ENOUGH: lower ckpt.max_num, free some space, or set ckpt.path to a larger disk")
    return lines


def check_disk(config: BaseRunConfig, disk: DiskPlan) -> str:
    """Compares the disk space of a run with what is free.

    Returns:
        A warning if the peak does not fit; empty if it does.

    Raises:
        ConfigError: The free space is too small for one checkpoint and the policy.
    """
    free, least = free_gb(checkpoint_path(config)), disk.checkpoint_gb + disk.policy_gb
    where = f"{free:.1f} GB are free at {checkpoint_path(config)}"
    if free < least:
        raise ConfigError(
            f"{where}, but a checkpoint and the policy need {least:.1f} GB; free some space, or set ckpt.path and "
            "run_dir to a larger disk"
        )
    return f"{where}, and the run needs up to {disk.peak_gb:.1f} GB; lower ckpt.max_num" if free < disk.peak_gb else ""


def download_lines(found: Sequence[Download]) -> list[str]:
    """Returns the lines about models that have to be downloaded."""
    if not found:
        return ["downloads   none"]
    missing = [one for one in found if not one.is_cached]
    known = sum(one.gigabytes or 0.0 for one in missing)
    unknown = "" if all(one.gigabytes for one in missing) else " and models of unknown size"
    here = ", ".join(one.name for one in found if one.is_cached)
    shown = ", ".join(
        f"{one.name} {f'{one.gigabytes:g} GB' if one.gigabytes else '(size unknown)'}" for one in missing
    )
    lines = [f"downloads   {known:.1f} GB{unknown}: {shown}"] if missing else ["downloads   none"]
    return lines + ([f"            downloaded already: {here}"] if here else [])


def advice_line(config: RunConfig | StageConfig, seconds: Mapping[str, float], disk: DiskPlan, free: float) -> str:
    """Returns the line about the change that would shorten the run most.

    Args:
        config: The run.
        seconds: Seconds of a step by role; `rewards` is the wait for rewards.
        disk: Disk space of the run.
        free: Free disk space.
    """
    total = sum(seconds.values())
    role = max(seconds, key=lambda name: seconds[name])
    part = f"{role} takes {seconds[role] / total:.0%} of a step" if total else ""
    before = "a larger disk (see above); then " if free < disk.peak_gb else ""
    if role == "generate" and isinstance(config, RunConfig):
        cached = config.rollout.text.cache == "none"
        ways = ["rollout.text.cache dual"] * cached + ["fewer num_denoising_steps", "rollout.num_workers on more GPUs"]
        text = f"{part}: {', '.join(ways)}"
    elif role == "rewards":
        text = f"{part}: on_policy_gpus for rewards with a model, or more CPUs for them"
    elif role == "gradients":
        text = f"{part}: a larger batch, or a lower ds.zero_stage if the memory allows"
    else:
        checkpointing = config.actor.gradient_checkpointing_enable
        ways = ["actor.gradient_checkpointing_enable false if the memory allows"] * checkpointing
        ways += ["fewer train.num_inner_updates"] * isinstance(config, RunConfig) + ["more GPUs"]
        text = f"{part}: {', '.join(ways)}"
    return f"first       {before}{text}"


def waiting_seconds(times: Mapping[str, RewardTime], score_seconds: float) -> float:
    """Returns how long a step waits for its rewards, which are computed while the models score."""
    return max(0.0, max((time.seconds for time in times.values()), default=0.0) - score_seconds)
