"""Runs a reward on a file of samples, without training: python -m rewards.try_reward --reward SPEC --input F.jsonl"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from rewards.base import RewardInput
from rewards.loading import load_reward


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 2 for wrong input, 1 if a value is missing."""
    parser = argparse.ArgumentParser(prog="python -m rewards.try_reward", description=__doc__)
    parser.add_argument("--reward", required=True, help="as `name` in reward.terms: math_answer, my.py:function ...")
    parser.add_argument("--input", required=True, type=Path, help="JSONL with prompt, completion, label, task, image")
    parser.add_argument("--options", default="{}", type=json.loads, help="JSON object with the reward's options")
    parser.add_argument("--style", default="auto", help="auto, unigrpo, trl, openrlhf or verl")
    flags = parser.parse_args(arguments)
    try:
        inputs = read_samples(flags.input)
        reward = load_reward(flags.reward, flags.options, flags.style)
        reward.load()
        for number, item in enumerate(inputs, start=1):
            try:
                reward.check_prompt(item)
            except ValueError as error:
                raise ValueError(f"{flags.input.name}:{number}: {error}") from error
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    started = time.monotonic()
    values = reward(inputs)
    seconds = time.monotonic() - started
    if len(values) != len(inputs):
        sys.stderr.write(f"error: {len(values)} values for {len(inputs)} samples; return one for each\n")
        return 2
    for item, value in zip(inputs, values, strict=True):
        shown = "missing" if value is None else f"{value:.4f}"
        sys.stdout.write(f"{shown:>10}  {item.prompt[:40]!r} -> {item.completion[-40:]!r}\n")
    num_missing = sum(value is None for value in values)
    logs = "".join(f", {name} {number:g}" for name, number in reward.logs().items())
    each = f"{1000 * seconds / len(values):.2f} ms each"
    sys.stdout.write(f"{reward.name}: {len(values)} samples, {num_missing} missing, {each}{logs}\n")
    reward.close()
    return 1 if num_missing else 0


def read_samples(path: Path) -> list[RewardInput]:
    """The samples of a JSONL file; other columns are metadata.

    Raises:
        ValueError: A line is no sample; the message has its number.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    samples: list[RewardInput] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            picture = Image.open(path.parent / row.pop("image")).convert("RGB") if row.get("image") else None
            known = {name: row.pop(name) for name in ("prompt", "completion", "label", "task") if name in row}
            samples.append(RewardInput(**{"completion": "", **known}, image=picture, metadata=row))
        except (ValueError, TypeError, AttributeError, OSError) as error:
            raise ValueError(f"{path.name}:{number}: no sample with prompt and completion ({error})") from error
    if not samples:
        raise ValueError(f"{path}: holds no sample")
    return samples


if __name__ == "__main__":
    sys.exit(main())
