"""The work of ``unigrpo generate``: it generates samples, writes each finished batch, and continues after a stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image

from unigrpo import ConfigError
from unigrpo.cli.animations import image_frames, save_gif, text_frames
from unigrpo.cli.evaluator_folders import check_layout, write_layout
from unigrpo.cli.generate_inputs import Inputs, check_inputs
from unigrpo.config.generate import GenerateConfig
from unigrpo.config.typed_files import read_json, read_json_lines, replace_text
from unigrpo.data.images import read_image
from unigrpo.library.policy import torch_device
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.records import Prompt, Trajectory
from unigrpo.runs.image_grid import captioned_grid
from unigrpo.runs.progress import Progress, progress
from unigrpo.training.batching import micro_batches
from unigrpo.workers.generation import TaskSampler

SAMPLES, SETTINGS = "samples.jsonl", "settings.json"
ADVICE = "restore the file, or name another --output"
MAX_COLUMNS, MAX_ROWS = 16, 8
"""Largest number of prompts, and of samples of each, in the grid."""
GRID_PIXELS = 256
"""Side of an image in the grid."""
MAX_PRINTED = 32
"""Largest number of samples that are printed."""
SPEED_ALONE = ("batch_size", "device", "gif", "layout")
"""Settings that may differ when a stopped command continues, because they do not change the samples."""


class _Numbered(TypedDict):
    number: int
    prompt: str
    seed: int


class Row(_Numbered, total=False):
    """A line of the samples, as far as it is read again."""

    text: str
    image: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """One sample to generate."""

    number: int
    prompt: Prompt
    seed: int


class CountedModel:
    """A model that shows its progress with every forward pass of a batch but the last."""

    def __init__(self, model: MMadaModelLM, shown: Progress, passes: range) -> None:
        self.device = model.device
        self._model, self._shown, self._passes = model, shown, iter(passes[1:])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self._model(*args, **kwargs)
        number = next(self._passes, None)
        if number is not None:
            self._shown.show(number, {})
        return result


def generate(config: GenerateConfig) -> int:
    """Generates all samples that do not exist yet, and prints all of them.

    Returns:
        The exit status: 130 after Ctrl-C.

    Raises:
        ValueError: An input is wrong, or the output folder holds other samples.
    """
    inputs = check_inputs(config)
    check_layout(config.layout, inputs.prompts)
    if inputs.image_tokenizer is not None:
        config = replace(config, image=replace(config.image, num_image_tokens=inputs.num_image_tokens))
    folder = Path(config.output)
    prompts = [prompt for prompt in inputs.prompts for _ in range(config.num_samples)]
    jobs = [Job(number=i, prompt=prompt, seed=config.seed + i) for i, prompt in enumerate(prompts)]
    num_finished = _finished(config, folder, jobs)
    device = torch_device(config.device)
    names = {"auto": "bfloat16" if device.type == "cuda" else "float32"}
    dtype = getattr(torch, names.get(config.dtype, config.dtype))
    model = load_policy(config.model, dtype, "sdpa").to(device)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(asdict(config), indent=1) + "\n")
    try:
        _sample(model, config, inputs, jobs[num_finished:], folder)
    except KeyboardInterrupt as error:
        done = len(_rows(folder))
        raise KeyboardInterrupt(
            f"{done} of {len(jobs)} samples are written, and the same command generates the others"
        ) from error
    _show(config, inputs.prompts, folder)
    return 0


def _finished(config: GenerateConfig, folder: Path, jobs: Sequence[Job]) -> int:
    """Returns the number of samples that a stopped command left in the folder, without a line that is cut off.

    Raises:
        ConfigError: All samples are there, or they have other settings.
    """
    if not (folder / SAMPLES).exists():
        return 0
    rows = _rows(folder)
    problem = "all" if len(rows) >= len(jobs) else ""
    found = read_json(folder / SETTINGS, dict[str, Any], ConfigError, ADVICE)
    own = json.loads(json.dumps(asdict(config)))
    changed = sorted(key for key in own if key not in SPEED_ALONE and found.get(key) != own[key])
    problem = f"other settings: {', '.join(changed)}" if changed else problem
    others = [job.number for job, row in zip(jobs, rows, strict=False) if row["prompt"] != job.prompt.text]
    problem = f"of other prompts, such as sample {others[0]}" if others and not problem else problem
    if problem:
        raise ConfigError(f"output {config.output!r} holds {SAMPLES} already ({problem}); name another folder")
    replace_text(folder / SAMPLES, "".join(json.dumps(row) + "\n" for row in rows))
    sys.stderr.write(f"{len(rows)} of {len(jobs)} samples exist already; generating the others\n")
    return len(rows)


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Returns the whole lines of the samples, whose number is that of the line.

    Raises:
        ConfigError: A line is no sample, or one is missing.
    """
    rows = read_json_lines(folder / SAMPLES, Row, ConfigError, ADVICE)
    for number, row in enumerate(rows):
        if row["number"] != number:
            raise ConfigError(
                f"{folder / SAMPLES}:{number + 1}: found sample {row['number']}, expected {number}; {ADVICE}"
            )
    return rows


def _sample(model: MMadaModelLM, config: GenerateConfig, inputs: Inputs, jobs: Sequence[Job], folder: Path) -> None:
    """Generates samples and writes each batch when it is finished."""
    sampler = TaskSampler(
        tokenizer=inputs.tokenizer, vocabulary=inputs.vocabulary, data=config.data,
        image_tokenizer=inputs.image_tokenizer, resolution=config.resolution, fit=config.fit,
        max_text_tokens=inputs.max_text_tokens,
    )  # fmt: skip
    batches = list(micro_batches(jobs, config.batch_size))
    num_passes = config.text.num_denoising_steps * (config.task != "t2i")
    num_passes += config.image.num_denoising_steps * (config.task in ("t2i", "r2i"))
    with (
        (folder / SAMPLES).open("a", encoding="utf-8") as lines,
        closing(progress(config.task, len(batches) * num_passes, unit="pass")) as shown,
    ):
        for number, batch in enumerate(batches):
            passes = range(number * num_passes, (number + 1) * num_passes)  # fewer, if the texts end early
            generators = [torch.Generator(model.device).manual_seed(job.seed) for job in batch]
            prompts = [job.prompt for job in batch]
            counted = CountedModel(model, shown, passes)
            samples = sampler.generate(counted, prompts, config.text, config.image, generators)
            for job, sample, image in zip(batch, samples, sampler.images(samples), strict=True):
                lines.write(json.dumps(_write(job, sample, image, config, sampler, folder)) + "\n")
            lines.flush()
            finished = batch[-1].number + 1 - jobs[0].number
            shown.show(passes.stop, {"samples": f"{finished} of {len(jobs)}"})


def _show(config: GenerateConfig, prompts: Sequence[Prompt], folder: Path) -> None:
    """Prints the samples, and writes the grid and the layout of an evaluator."""
    rows = _rows(folder)
    write: Callable[[str], Any] = sys.stdout.write
    for number, row in enumerate(rows[:MAX_PRINTED]):
        if number % config.num_samples == 0:
            write(f"{row['prompt']}\n")
        for name in ("text", "image"):
            if name in row:
                write(f"  seed {row['seed']}, {name}: {row[name]}\n")
    if len(rows) > MAX_PRINTED:
        write(f"... and {len(rows) - MAX_PRINTED} more samples in the file\n")
    write(f"samples: {folder / SAMPLES}\n")
    if "image" not in rows[0]:
        return
    files = [folder / row["image"] for row in rows]
    by_prompt = list(micro_batches(files, config.num_samples))
    columns = [
        (prompt.text, [np.asarray(read_image(file)) for file in own[:MAX_ROWS]])
        for prompt, own in zip(prompts[:MAX_COLUMNS], by_prompt, strict=False)
    ]
    captioned_grid(columns, GRID_PIXELS).save(folder / "grid.png")
    write(f"images:  {folder / 'grid.png'}\n")
    target = write_layout(config.layout, folder, list(zip(prompts, by_prompt, strict=True)))
    if target is not None:
        write(f"{config.layout}: {target}\n")


def _write(
    job: Job,
    sample: Trajectory,
    image: Image.Image | None,
    config: GenerateConfig,
    sampler: TaskSampler,
    folder: Path,
) -> dict[str, Any]:
    """Writes the files of one sample and returns its line."""
    row: dict[str, Any] = {
        "number": job.number,
        "prompt_id": job.prompt.id,
        "task": job.prompt.task,
        "prompt": job.prompt.text,
        "seed": job.seed,
    }
    if job.prompt.label is not None:
        row["label"] = job.prompt.label
    if job.prompt.images:
        row["input_image"] = job.prompt.images[0]
    if sample.text_mask.any():
        is_scored = sample.scored_mask & sample.text_mask
        row["text"] = sampler.completion(sample)
        row["num_tokens"] = int(is_scored.sum())
        if config.gif:
            tokens = sampler.tokenizer.batch_decode(sample.token_ids[is_scored][:, None])
            row["text_gif"] = _path(folder, "gifs", f"{job.number:05d}_text.gif")
            save_gif(text_frames(tokens, sample.commit_step[is_scored]), folder / row["text_gif"])
    if image is not None:
        row["image"] = _path(folder, "images", f"{job.number:05d}.png")
        image.save(folder / row["image"])
        if config.gif:
            row["image_gif"] = _path(folder, "gifs", f"{job.number:05d}_image.gif")
            save_gif(image_frames(image, sample.commit_step[sample.image_mask]), folder / row["image_gif"])
    return row


def _path(folder: Path, part: str, name: str) -> str:
    """Returns the path of a file below the output folder and creates its folder."""
    (folder / part).mkdir(exist_ok=True)
    return f"{part}/{name}"
