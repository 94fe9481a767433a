"""The text that ``--dry_run`` prints: what a run does, the memory of each GPU, and how long a step takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from unigrpo import ConfigError
from unigrpo.checks.denoising import StageInputs, row_lengths
from unigrpo.checks.unigrpo import Inputs
from unigrpo.cli.plan_run import (
    PromptFractions,
    advice_line,
    assumed_fractions,
    disk_lines,
    download_lines,
    prompt_fractions,
    reward_time_lines,
    reward_times,
    waiting_seconds,
    whole_run_lines,
)
from unigrpo.config import BaseRunConfig, RolloutConfig, RunConfig
from unigrpo.config.data import IMAGE_OUTPUT_TASKS
from unigrpo.config.denoising import StageConfig
from unigrpo.config.reward import POLICY_GPU_FRACTION
from unigrpo.cost.disk import disk_plan, free_gb
from unigrpo.cost.downloads import downloads
from unigrpo.cost.evaluation import evaluation_flops
from unigrpo.cost.hardware import Hardware, find_hardware
from unigrpo.cost.memory import (
    MemoryPlan,
    ModelSize,
    Rows,
    check_fits,
    check_rollouts_fit,
    memory_plan,
    rollout_memory_gb,
    room_gb,
    stage_memory,
    training_memory,
)
from unigrpo.cost.rewards import RewardTime
from unigrpo.cost.step_time import (
    StepFlops,
    stage_flops,
    stage_passes,
    step_seconds,
    unigrpo_flops,
    unigrpo_passes,
    whole_step,
)
from unigrpo.distributed import cluster
from unigrpo.models.checkpoint_io import load_config
from unigrpo.models.mmada import MMadaConfig
from unigrpo.models.vocabulary import PUBLISHED_CODEBOOK_SIZE
from unigrpo.models.weight_files import is_downloaded
from unigrpo.runs.checkpoints import checkpoint_path
from unigrpo.workers.reward_pool import Trial

PUBLISHED_DOWNSCALE = 16
"""Height and width in pixels of the square that one code of the published image tokenizer represents."""
NUM_GPUS = (1, 8, 64)
"""Columns of the table of times, besides the run's own number of GPUs."""


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """The hardware and the speed that a plan assumes."""

    hardware: Hardware
    mfu: float
    """Fraction of the GPU's peak arithmetic that passes reach."""


def assumptions(gpu: str, mfu: float) -> Assumptions:
    """Returns the assumptions of the flags.

    Raises:
        ValueError: A value is wrong.
    """
    if not 0 < mfu <= 1:
        raise ConfigError(f"--mfu is {mfu}; it must lie above 0 and not above 1")
    return Assumptions(hardware=find_hardware(gpu), mfu=mfu)


def is_local_checkpoint(model: str) -> bool:
    """Whether a model is on this machine, as a folder or as a download; a plan downloads no model."""
    return Path(model).is_dir() or is_downloaded(model)


def unigrpo_plan(config: RunConfig, inputs: Inputs | None, assumed: Assumptions) -> str:
    """Returns the plan of a UniGRPO run.

    Args:
        config: The run.
        inputs: The checked inputs; None if the model is not on this machine, so that nothing could be checked.
        assumed: Hardware and speed.

    Raises:
        ValueError: The run does not fit.
    """
    size, lines = _model_lines(config, inputs is not None)
    prompts = _assumed_prompts(config) if inputs is None else _known_prompts(config, inputs)
    hardware = assumed.hardware
    num_updates = config.train.num_inner_updates
    lines += [
        f"prompts     {prompts.line}",
        f"steps       {config.train.num_steps} of {config.num_samples_per_step} samples, "
        f"{config.train.num_steps * num_updates} optimizer steps",
        f"rewards     {', '.join(f'{term.weight:g} x {term.name}' for term in config.reward.terms)}",
        f"estimator   {config.algo.likelihood.name}, mask ratios {config.algo.mask_ratio.schedule}",
        f"workers     {_workers(config)}",
    ]
    lines += _run_memory_lines(config, size, prompts, hardware)
    tasks, mean, codes = prompts.fractions.tasks, prompts.mean, prompts.codes
    flops = unigrpo_flops(config, size, mean, codes, tasks, PUBLISHED_CODEBOOK_SIZE)
    mean_row = sum(fraction * (mean[task] + config.response_tokens(task, codes)) for task, fraction in tasks.items())
    passes = partial(unigrpo_passes, config, mean_row=mean_row)

    def times_of(num_gpus: int) -> dict[str, RewardTime]:
        return reward_times(config, prompts.fractions, hardware, assumed.mfu, num_gpus)

    time_lines, seconds = _time_lines(config, size, flops, num_updates, passes, assumed, times_of)
    lines += time_lines
    per_sample = flops.generate / config.num_generated_per_step / (hardware.tflops * 1e12 * assumed.mfu)
    lines.append(f"            {1 / per_sample:.2f} samples a second by each generating GPU, if all steps are needed")
    lines += reward_time_lines(config, times_of(config.actor.num_ranks))
    evaluation = 0.0
    if config.eval.dataset:
        evaluation = evaluation_flops(config, size, prompts.held_out, mean, codes, PUBLISHED_CODEBOOK_SIZE)
    evaluation /= hardware.tflops * 1e12 * assumed.mfu * config.actor.num_ranks
    lines += whole_run_lines(config, whole_step(seconds, config.rollout.max_staleness), evaluation)
    lines += _resource_lines(config, size, seconds)
    return "\n".join([*lines, *_ending(inputs is not None)])


@dataclass(frozen=True, kw_only=True)
class _Prompts:
    """What a plan knows or assumes about the prompts of a run."""

    line: str
    """What the plan says about them."""
    fractions: PromptFractions
    codes: int
    """Codes of one image."""
    longest: Mapping[str, int]
    """Tokens of the longest prompt of each task."""
    mean: dict[str, int]
    """Tokens of the mean prompt of each task."""
    held_out: dict[str, float]
    """Number of held-out prompts of each task."""


def _known_prompts(config: RunConfig, inputs: Inputs) -> _Prompts:
    counts, lengths = Counter(prompt.task for prompt in inputs.prompts), inputs.prompt_tokens
    return _Prompts(
        line=f"{len(inputs.prompts)} to train on ({_listed(counts)}), {len(inputs.eval_prompts)} held out, longest "
        f"{inputs.longest_prompt} tokens",
        fractions=prompt_fractions(config, inputs.prompts),
        codes=inputs.num_image_tokens,
        longest={task: max(tokens) for task, tokens in lengths.items()},
        mean={task: round(sum(tokens) / len(tokens)) for task, tokens in lengths.items()},
        held_out=dict(Counter(prompt.task for prompt in inputs.eval_prompts)),
    )


def _assumed_prompts(config: RunConfig) -> _Prompts:
    fractions = assumed_fractions(config, _rewarded_tasks(config))
    codes, longest = published_codes(config.image.resolution), config.data.max_prompt_tokens
    mix = ", ".join(f"{fraction:.0%} {task}" for task, fraction in fractions.tasks.items())
    image = {task: codes if task == "mmu" else 0 for task in fractions.tasks}
    return _Prompts(
        line=f"assumed: {mix}, half of data.max_prompt_tokens long",
        fractions=fractions,
        codes=codes,
        longest={task: longest + tokens for task, tokens in image.items()},
        mean={task: longest // 2 + tokens for task, tokens in image.items()},
        held_out={task: fraction * config.eval.max_samples for task, fraction in fractions.tasks.items()},
    )


def _run_memory_lines(config: RunConfig, size: ModelSize, prompts: _Prompts, hardware: Hardware) -> list[str]:
    """Returns the lines about the memory of all GPUs of a UniGRPO run.

    Raises:
        ValueError: The run does not fit.
    """
    rows = {task: tokens + config.response_tokens(task, prompts.codes) for task, tokens in prompts.longest.items()}
    longest = Rows(
        longest=max(rows.values(), default=0),
        longest_image=max((rows[task] for task in IMAGE_OUTPUT_TASKS if task in rows), default=0),
        image_tokens=0 if set(rows) <= {"text"} else prompts.codes,
    )
    memory = memory_plan(config, size, longest)
    lines = _memory_lines(memory, "policy GPU", hardware)
    if config.has_dedicated_reference_gpus:
        gigabytes = memory.gpu["weights"] + memory.gpu["score"]
        lines.append(f"            {gigabytes:.2f} GB on each of {config.actor.num_ranks} reference GPUs")
    if config.rollout.num_workers:
        gigabytes = rollout_memory_gb(config, size, longest)
        check_rollouts_fit(gigabytes, hardware)
        lines.append(f"            {gigabytes:.2f} GB on each of {config.rollout.num_workers} rollout GPUs")
    for term in config.reward.terms:
        if term.num_gpus:
            lines.append(
                f"            {term.num_gpus:g} of a GPU ({term.num_gpus * room_gb(hardware):.1f} GB) beside the "
                f"policy's for each of {term.min_workers} x {term.name}"
            )
    for term in config.reward.terms:
        if term.on_policy_gpus:
            lines.append(f"            {POLICY_GPU_FRACTION:g} of each policy GPU for {term.name}")
    check_fits(memory, config, hardware)
    return lines


def _resource_lines(config: RunConfig | StageConfig, size: ModelSize, seconds: dict[str, float]) -> list[str]:
    """Returns the lines about disk, downloads and what to change first."""
    disk, free = disk_plan(config, size), free_gb(checkpoint_path(config))
    return [
        *disk_lines(config, disk, free),
        *download_lines(downloads(config)),
        advice_line(config, seconds, disk, free),
    ]


def trial_lines(trials: Sequence[Trial]) -> str:
    """Returns the scores of two samples by each reward, and the time of a step that follows from this call."""
    lines: list[str] = []
    for trial in trials:
        values = ", ".join("missing" if value is None else f"{value:.3g}" for value in trial.scores.values)
        lines.append(
            f"reward      {trial.name}: {values} for stand-ins; {_seconds(trial.seconds_per_sample)} a sample, "
            f"at most {_seconds(trial.step_seconds)} a step with {counted(trial.num_processes, 'process', 'es')}\n"
        )
    return "".join(lines)


def _seconds(seconds: float) -> str:
    """Returns a time with two significant digits, or in whole seconds from 100 s on.

    >>> _seconds(0.0123), _seconds(203.4)
    ('0.012 s', '203 s')
    """
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.2g} s"


def _rewarded_tasks(config: RunConfig) -> list[str]:
    """Returns the tasks of a run, as far as its rewards and ``data.tasks`` determine them.

    Raises:
        ValueError: No reward scores a task of the run.
    """
    asked = config.data.tasks
    rewarded = dict.fromkeys(task for term in config.reward.terms for task in term.tasks or asked or ("text",))
    tasks = [task for task in rewarded if not asked or task in asked]
    if not tasks:
        raise ConfigError(
            f"data.tasks is {list(asked)}, but reward.terms score only {list(rewarded)}; add a reward for one of the "
            "tasks of the run, or change data.tasks"
        )
    return tasks


def stage_plan(config: StageConfig, inputs: StageInputs | None, assumed: Assumptions) -> str:
    """Returns the plan of a stage; see :func:`unigrpo_plan`."""
    size, lines = _model_lines(config, inputs is not None)
    rows = inputs.rows if inputs else row_lengths(config, published_codes(config.image.resolution))
    lines.append(
        f"steps       {config.train.num_steps} of {config.num_samples_per_step} rows, longest row "
        f"{max(rows.values())} tokens"
    )
    for name, modality in config.modalities.items():
        lines.append(
            f"{name:<11} {modality.batch_size} rows of {rows[name]} tokens a step, loss x {modality.loss_coef:g}"
        )
        sizes = inputs.sizes[name] if inputs else dict.fromkeys(modality.sources)
        lines += [
            f"              {source}" + ("" if number is None else f": {number:,} samples")
            for source, number in sizes.items()
        ]
    lines.append(f"workers     {config.actor.num_ranks} GPUs")
    memory = stage_memory(config, size, max(rows.values()))
    lines += _memory_lines(memory, "GPU", assumed.hardware)
    check_fits(memory, config, assumed.hardware)
    passes = partial(stage_passes, config)
    time_lines, seconds = _time_lines(config, size, stage_flops(config, size, rows), 1, passes, assumed)
    lines += time_lines
    lines += whole_run_lines(config, whole_step(seconds, 0), 0.0)
    lines += _resource_lines(config, size, seconds)
    return "\n".join([*lines, *_ending(inputs is not None)])


def _model_lines(config: BaseRunConfig, is_checked: bool) -> tuple[ModelSize, list[str]]:
    name = config.actor.model_name_or_path
    size = ModelSize.of(load_config(name) if is_checked else MMadaConfig(), config.ds.lora)
    source = "" if is_checked else "not on this machine; assumed to be MMaDA-8B, "
    trained = f", of which {size.num_trainable:,} are trained (LoRA)" if config.ds.lora.rank else ""
    return size, [f"model       {name}: {source}{size.num_parameters:,} parameters{trained}"]


def _workers(config: RunConfig) -> str:
    needs = cluster.required(config)
    ranks = config.actor.num_ranks
    processes = sum(ranks if term.on_policy_gpus else term.min_workers for term in config.reward.terms)
    parts = [counted(ranks, "policy rank")]
    parts += [counted(config.rollout.num_workers, "rollout worker")] if config.rollout.num_workers else []
    parts.append(counted(processes, "reward process", "es"))
    return f"{counted(needs.gpus, 'GPU')}, {counted(needs.cpus, 'CPU')}: {', '.join(parts)}"


def counted(number: int, noun: str, ending: str = "s") -> str:
    """Returns a number with its noun.

    >>> counted(1, "GPU"), counted(3, "reward process", "es")
    ('1 GPU', '3 reward processes')
    """
    return f"{number} {noun}{'' if number == 1 else ending}"


def _memory_lines(memory: MemoryPlan, where: str, hardware: Hardware) -> list[str]:
    lines = [
        f"memory      {memory.gpu_total:.2f} GB on each {where}, of {hardware.memory_gb:.0f} GB ({hardware.name}): "
        f"{_gigabytes(memory.gpu)}"
    ]
    if memory.cpu:
        lines.append(f"            {sum(memory.cpu.values()):.2f} GB of CPU memory per rank: {_gigabytes(memory.cpu)}")
    return lines


def _time_lines(
    config: BaseRunConfig,
    size: ModelSize,
    flops: StepFlops,
    num_updates: int,
    num_passes: Callable[[int], int],
    assumed: Assumptions,
    reward_times_of: Callable[[int], Mapping[str, RewardTime]] = lambda _: {},
) -> tuple[list[str], dict[str, float]]:
    """Returns the lines about the time of a step, for the run's own number of policy GPUs and others.

    The number of rollout workers per policy GPU is that of the run.

    Args:
        config: The run.
        size: Size of the model.
        flops: Operations of a step.
        num_updates: Number of optimizer steps of a step.
        num_passes: Returns the passes of each rank in an optimizer step, from the number of policy GPUs.
        assumed: Hardware and speed.
        reward_times_of: Time of the rewards, by the number of policy GPUs.

    Returns:
        The lines, and the seconds by role of the run itself.
    """
    own = config.actor.num_ranks
    rollout = config.rollout if isinstance(config, RunConfig) else RolloutConfig()
    roles = [role for role in ("generate", "score", "update") if getattr(flops, role)] + ["gradients"]
    roles += ["sync"] * (rollout.num_workers > 0)
    roles += ["rewards"] * bool(reward_times_of(own))
    heads = " ".join(f"{name:>9}" for name in [*roles, "step"])
    lines = [
        f"step time   seconds at {assumed.mfu:.0%} of the arithmetic of {assumed.hardware.name}"
        + ("; rewards: the wait for them after scoring:" if "rewards" in roles else ":"),
        f"            {'GPUs':>6} {heads}",
    ]
    of_run: dict[str, float] = {}
    for number in sorted({*NUM_GPUS, own}):
        seconds = step_seconds(
            flops,
            config,
            size,
            assumed.hardware,
            number,
            mfu=assumed.mfu,
            num_updates=num_updates,
            num_passes=num_passes(number),
            num_rollout_gpus=math.ceil(rollout.num_workers * number / own),
        )
        if "rewards" in roles:
            seconds["rewards"] = waiting_seconds(reward_times_of(number), seconds["score"])
        if number == own:
            of_run = seconds
        values = [*(seconds[role] for role in roles), whole_step(seconds, rollout.max_staleness)]
        own_mark = "  <- this run" if number == own else ""
        if training_memory(config, size, 1, number).gpu_total > assumed.hardware.memory_gb:
            own_mark += "  (weights and optimizer do not fit)"
        lines.append(f"            {number:>6} " + " ".join(f"{value:>9.2f}" for value in values) + own_mark)
    return lines, of_run


def published_codes(resolution: int) -> int:
    """Returns the codes of an image of this height and width in pixels, by the published image tokenizer."""
    return (resolution // PUBLISHED_DOWNSCALE) ** 2


def _gigabytes(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in parts.items())


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {task}" for task, number in counts.items())


def _ending(is_checked: bool) -> list[str]:
    if is_checked:
        return ["all checks passed; nothing was trained", ""]
    return [
        "model, data, rewards and Ray cluster were not checked, because the model is not on this machine; where it "
        "is, this command checks them, too",
        "",
    ]
