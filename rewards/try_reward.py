"""Runs a reward on a file of samples, without training.

Usage: unigrpo try-reward --reward SPEC --input F.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from rewards.base import RewardInput
from rewards.runtime.host import RewardInfo, RewardSpec
from rewards.runtime.jsonl import numbered_lines
from rewards.runtime.process import ProcessFailed, RewardProcess
from rewards.runtime.scoring import Scores

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Image formats that are read. Some other formats of Pillow start programs, such as Ghostscript for EPS."""
SHOWN_CHARACTERS = 40
"""Length of the start of a prompt and of the end of a completion in the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit status: 2 for wrong input or a reward that fails, 1 if a value is missing."""
    parser = argparse.ArgumentParser(prog="unigrpo try-reward", description=__doc__)
    parser.add_argument(
        "--reward", required=True, help="name of the reward, as in reward.terms: math_answer, my.py:function ..."
    )
    parser.add_argument(
        "--input",
        required=True,
        type=Path,
        help="JSONL file with prompt, completion, label, task and image, such as rollouts.jsonl of a run",
    )
    parser.add_argument("--options", default="{}", type=_options, help="JSON object with the reward's options")
    parser.add_argument("--style", default="auto", help="auto, unigrpo, trl, openrlhf, verl or verl_batch")
    parser.add_argument(
        "--timeout_seconds",
        default=120.0,
        type=float,
        help="deadline in seconds for loading, for checking and for scoring",
    )
    flags = parser.parse_args(arguments)
    spec = RewardSpec(name=flags.reward, options=flags.options, style=flags.style)
    try:
        inputs = read_samples(flags.input)
        with RewardProcess(spec) as process:
            info = process.load(seconds=flags.timeout_seconds)
            problems = process.check_prompts(inputs, seconds=flags.timeout_seconds)
            if any(problems):
                raise ValueError(_first_problem(flags.input.name, problems))
            started = time.monotonic()
            scores = process.score(inputs, seconds=flags.timeout_seconds)
            seconds = time.monotonic() - started
        if scores.has_failed:
            raise ValueError(f"reward {info.name!r} {scores.reason}")
    except ProcessFailed as error:
        sys.stderr.write(f"error: reward {flags.reward!r} {error}\n")
        return 2
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(_table(inputs, scores) + _summary(info, scores, seconds))
    return 1 if None in scores.values else 0


def read_samples(path: Path) -> list[RewardInput]:
    """Returns the samples of a JSONL file. Columns that are not fields of a sample become its metadata.

    Raises:
        ValueError: A line is not a sample; the message has its number.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    samples: list[RewardInput] = []
    for number, line in numbered_lines(path):
        try:
            samples.append(_sample(json.loads(line.decode("utf-8")), path.parent))
        except (ValueError, TypeError, AttributeError, OSError, RecursionError, OverflowError) as error:
            raise ValueError(f"{path.name}:{number}: no sample with prompt and completion ({error})") from error
    if not samples:
        raise ValueError(f"{path}: holds no sample")
    return samples


def _sample(row: dict[str, Any], folder: Path) -> RewardInput:
    image = _image(folder / row["image"]) if row.get("image") else None
    inputs = tuple(_image(folder / name) for name in row.get("images") or ())
    texts = ("prompt", "completion", "label", "task", "raw_completion", "completion_ids", "prompt_ids", "messages")
    known = {name: row[name] for name in texts if name in row}
    for name in ("completion_ids", "prompt_ids", "messages"):
        known[name] = tuple(known.get(name) or ())
    if not isinstance(known.get("prompt"), str) or not isinstance(known.setdefault("completion", ""), str):
        raise ValueError("both must be text")
    known.setdefault("raw_completion", known["completion"])
    known["num_tokens"] = int(row.get("num_tokens", row.get("tokens", 0)))  # `tokens` in rollouts.jsonl
    known["is_full_length"] = bool(row.get("is_full_length", False))
    taken = {field.name for field in dataclasses.fields(RewardInput)} | {"images"}
    metadata = {name: value for name, value in row.items() if name not in taken}
    return RewardInput(**known, image=image, input_images=inputs, metadata=metadata)


def _options(text: str) -> dict[str, Any]:
    """Returns the options of a reward from the command line."""
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no JSON ({error})") from error
    if not isinstance(options, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, found {text[:60]!r}")
    return options


def _image(path: Path) -> Image.Image:
    """Returns an image in RGB. Raises ValueError if it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            return opened.convert("RGB")
    except Exception as error:
        raise ValueError(f"{path}: no image could be read ({type(error).__name__}: {error})") from error


def _first_problem(file: str, problems: Sequence[str]) -> str:
    number, problem = next((n, problem) for n, problem in enumerate(problems, start=1) if problem)
    others = sum(map(bool, problems)) - 1
    return f"{file}, sample {number}: {problem}" + (f" (and {others} more samples)" if others else "")


def _table(inputs: Sequence[RewardInput], scores: Scores) -> str:
    shown = ["missing" if value is None else f"{value:.4f}" for value in scores.values]
    return "".join(
        f"{value:>10}  {_start(item.prompt)!r} -> {'(image)' if item.image else repr(_end(item.completion))}\n"
        for value, item in zip(shown, inputs, strict=True)
    )


def _start(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 3] + "..."


def _end(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else "..." + text[3 - SHOWN_CHARACTERS :]


def _summary(info: RewardInfo, scores: Scores, seconds: float) -> str:
    num_missing = scores.values.count(None)
    parts = [
        f"{info.name}: {len(scores.values)} samples",
        f"{num_missing} missing" + (f" ({scores.reason})" if num_missing else ""),
        f"{1000 * seconds / len(scores.values):.2f} ms each",
        *([f"called as a {info.style} function"] if info.style else []),
        *(f"{name} {number:g}" for name, number in scores.logs.items()),
    ]
    return ", ".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
