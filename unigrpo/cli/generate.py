"""Generates text, answers about images, images, or thoughts and then images with a checkpoint.

The command prints the answers. It writes samples.jsonl with one line per sample (prompt, seed, text, image), the
images, a grid with one column per prompt, and settings.json. For a policy that a run exported, the defaults of
resolution, fit, template, instruction and sampling are those of the run (sampling.json). Examples:
  unigrpo generate --task t2i --model FOLDER --prompts "a red square" --output out
  unigrpo generate --task text --model examples/tiny/mixcot --prompts "70+5+4=" --output out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentParser

from unigrpo.cli.main import run_old_name
from unigrpo.cli.policy_defaults import set_policy_defaults
from unigrpo.config import ImageSamplingConfig
from unigrpo.config.generate import GenerateConfig
from unigrpo.config.parsing import hide_sections, parse


def run(arguments: Sequence[str]) -> int:
    """Runs ``unigrpo generate``. Returns the exit status."""
    config = parse_config(arguments)
    from unigrpo.cli.generation import generate  # noqa: PLC0415  # loads torch, which --help need not

    return generate(config)


def parse_config(arguments: Sequence[str]) -> GenerateConfig:
    """Returns the settings of the flags.

    Raises:
        ValueError: A flag is wrong; the message names it.
    """
    parser = ArgumentParser(
        prog="unigrpo generate",
        description=__doc__,
        usage="%(prog)s [--config FILE.yaml] --task TASK --model MODEL --prompts PROMPTS --output FOLDER [...]",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with settings; flags after it override it")
    parser.add_argument(
        "--images",
        nargs="*",
        default=(),
        help="image files for mmu: one for each prompt, one for all prompts, or several for one prompt",
    )
    parser.add_argument("--gif", action="store_true", help="write an animation of the denoising of each sample, too")
    parser.add_class_arguments(GenerateConfig, skip={"images", "image", "gif"})
    # The number of image tokens follows from the resolution.
    parser.add_class_arguments(ImageSamplingConfig, "image", skip={"num_image_tokens", "score_guided"})
    hide_sections(parser)
    set_policy_defaults(parser, arguments)
    parsed = parse(parser, arguments)
    values: dict[str, Any] = {f.name: parsed[f.name] for f in fields(GenerateConfig)}
    values["images"] = tuple(parsed.images or ())
    return GenerateConfig(**values)


if __name__ == "__main__":
    run_old_name("unigrpo.cli.generate", "generate")
