"""Generates with a checkpoint: text, answers about images, images, or thoughts and then images.

Writes samples.jsonl with one line per sample (prompt, seed, text, image), the images, a grid of them with one row per
prompt, and settings.json. Example: --task t2i --model FOLDER --prompts "a red square" --output out
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from PIL import Image
from tqdm import tqdm

from unigrpo.cli.arguments import parse
from unigrpo.cli.generate_inputs import SAMPLES, GenerateConfig, Inputs, check_inputs, torch_device
from unigrpo.cli.images import grid, image_frames, save_gif, text_frames
from unigrpo.cli.main import run_old_name
from unigrpo.config import ImageSamplingConfig
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.records import Prompt
from unigrpo.workers.generation import Drawn, TaskSampler

MAX_GRID = 64
"""Largest number of images in the grid."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One sample to generate."""

    number: int
    prompt: Prompt
    seed: int


class CountedModel:
    """A model that advances a progress bar with every forward pass."""

    def __init__(self, model: MMadaModelLM, bar: Any) -> None:
        self.device = model.device
        self._model, self._bar = model, bar

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._bar.update()
        return self._model(*args, **kwargs)


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo generate``. Returns the exit status."""
    config = parse_config(arguments)
    inputs = check_inputs(config)
    if inputs.image_tokenizer is not None:
        config = replace(config, image=replace(config.image, num_image_tokens=inputs.num_image_tokens))
    device = torch_device(config.device)
    names = {"auto": "bfloat16" if device.type == "cuda" else "float32"}
    dtype = getattr(torch, names.get(config.dtype, config.dtype))
    model = load_policy(config.model, dtype, "sdpa").to(device)  # type: ignore[arg-type]
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    pictures = generate(model, config, inputs, folder)
    sys.stdout.write(f"samples: {folder / SAMPLES}\n")
    if pictures:
        columns = config.num_samples if config.num_samples > 1 else None
        grid(pictures, columns).save(folder / "grid.png")
        sys.stdout.write(f"images:  {folder / 'grid.png'}\n")
    return 0


def parse_config(arguments: Sequence[str]) -> GenerateConfig:
    """Returns the settings of the flags.

    Raises:
        ValueError: A flag is wrong; the message names it.
    """
    parser = ArgumentParser(prog="unigrpo generate", description=__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument(
        "--images", nargs="*", default=(), help="image files for mmu: one for each prompt, or one for all prompts"
    )
    parser.add_argument("--gif", action="store_true", help="also write an animation of the denoising of each sample")
    parser.add_class_arguments(GenerateConfig, skip={"images", "image", "gif"})
    # The number of image tokens follows from the resolution.
    parser.add_class_arguments(ImageSamplingConfig, "image", skip={"num_image_tokens"})
    parsed = parse(parser, arguments)
    values: dict[str, Any] = {f.name: parsed[f.name] for f in fields(GenerateConfig)}
    values["images"] = tuple(parsed.images or ())
    return GenerateConfig(**values)


def generate(model: MMadaModelLM, config: GenerateConfig, inputs: Inputs, folder: Path) -> list[Image.Image]:
    """Generates all samples, writes each batch when it is finished, and returns the first images."""
    sampler = TaskSampler(
        tokenizer=inputs.tokenizer, vocabulary=inputs.vocabulary, data=config.data,
        image_tokenizer=inputs.image_tokenizer, resolution=config.resolution, fit=config.fit,
        max_text_tokens=inputs.max_text_tokens,
    )  # fmt: skip
    prompts = [prompt for prompt in inputs.prompts for _ in range(config.num_samples)]
    jobs = [Job(number=i, prompt=prompt, seed=config.seed + i) for i, prompt in enumerate(prompts)]
    batches = [jobs[first : first + config.batch_size] for first in range(0, len(jobs), config.batch_size)]
    text_steps = config.text.num_denoising_steps * (config.task != "t2i")
    image_steps = config.image.num_denoising_steps * (config.task in ("t2i", "r2i"))
    pictures: list[Image.Image] = []
    with (
        (folder / SAMPLES).open("w", encoding="utf-8") as lines,
        closing(tqdm(total=len(batches) * (text_steps + image_steps), desc=config.task, unit="pass")) as bar,
    ):
        for number, batch in enumerate(batches, start=1):
            generators = [torch.Generator(model.device).manual_seed(job.seed) for job in batch]
            drawn = sampler.draw(
                CountedModel(model, bar), [job.prompt for job in batch], config.text, config.image, generators
            )
            images = sampler.pictures(drawn)
            for job, one, picture in zip(batch, drawn, images, strict=True):
                lines.write(json.dumps(_write(job, one, picture, config, sampler, folder)) + "\n")
            lines.flush()
            pictures += [picture for picture in images if picture is not None][: MAX_GRID - len(pictures)]
            bar.n = number * (text_steps + image_steps)  # texts may have ended early
            bar.set_postfix(samples=f"{batch[-1].number + 1}/{len(jobs)}")
    return pictures


def _write(
    job: Job, drawn: Drawn, picture: Image.Image | None, config: GenerateConfig, sampler: TaskSampler, folder: Path
) -> dict[str, Any]:
    """Writes the files of one sample and returns its line."""
    row: dict[str, Any] = {
        "number": job.number,
        "prompt_id": job.prompt.id,
        "task": job.prompt.task,
        "prompt": job.prompt.text,
        "seed": job.seed,
    }
    if job.prompt.images:
        row["input_image"] = job.prompt.images[0]
    if drawn.text is not None:
        text = drawn.text
        row["text"] = sampler.completion(drawn)
        row["num_tokens"] = int(text.scored_mask.sum())
        if config.gif:
            tokens = sampler.tokenizer.batch_decode(text.token_ids[text.scored_mask][:, None])
            row["text_gif"] = _path(folder, "gifs", f"{job.number:05d}_text.gif")
            save_gif(text_frames(tokens, text.commit_step[text.scored_mask]), folder / row["text_gif"])
    if drawn.image is not None and picture is not None:
        row["image"] = _path(folder, "images", f"{job.number:05d}.png")
        picture.save(folder / row["image"])
        if config.gif:
            row["image_gif"] = _path(folder, "gifs", f"{job.number:05d}_image.gif")
            frames = image_frames(picture, drawn.image.commit_step[drawn.image.response_mask])
            save_gif(frames, folder / row["image_gif"])
    return row


def _path(folder: Path, part: str, name: str) -> str:
    """Returns the path of a file below the output folder and creates its folder."""
    (folder / part).mkdir(exist_ok=True)
    return f"{part}/{name}"


if __name__ == "__main__":
    run_old_name("unigrpo.cli.generate", "generate")
