"""Writes the images of the tiny prompts.

Usage: python examples/tiny/prompt_images.py

Git tracks the prompt files in examples/tiny/world. This script draws their 384 images in about a second, and changes
nothing if they exist. A checksum of the pixels detects images of an earlier version of the world, and images that
differ on another machine.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import tempfile
from functools import cache
from io import BytesIO
from pathlib import Path

import arithmetic
import numpy as np
from PIL import Image
from questions import answer, has_names, questions, request
from shapes import Scene, caption, draw, split, stage_split

from unigrpo.config import TASKS

FOLDER = Path(__file__).parent / "world"
PIXELS = "c7bcf1840d2c10d83bf543df2201d863977320e7345dcafd050343422ec03ef0"
"""SHA-256 of the names and pixels of all images."""
SCENES = {"train": 288, "test": 96}
"""Number of scenes of each part. Each has a question, a caption for t2i, and one for r2i if its things have names."""
SUMS = {"train": 864, "test": 96}
"""Number of sums of each part, which need more prompts than images do."""


def main() -> None:
    """Writes the images, unless they exist.

    Raises:
        SystemExit: This machine draws other images, or the prompt files are not those of this script.
    """
    if is_current(FOLDER):
        return
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary:
        made = Path(temporary)
        write_prompts(made, seed=0)
        if checksum(made) != PIXELS:
            sys.exit(f"{FOLDER}: this machine draws other images than the prompts describe; check Pillow")
        changed = [f.name for f in made.glob("*.jsonl") if f.read_bytes() != (FOLDER / f.name).read_bytes()]
        if changed:
            sys.exit(f"{FOLDER}: {changed[0]} is not the file that this script writes; restore it (git checkout)")
        for part in ("train", "test"):
            shutil.rmtree(FOLDER / part, ignore_errors=True)
            (made / part).rename(FOLDER / part)


def is_current(folder: Path) -> bool:
    """Returns whether a folder has exactly the images of this version of the tiny data."""
    try:
        return checksum(folder) == PIXELS
    except OSError:  # a file that Pillow cannot read
        return False


def checksum(folder: Path) -> str:
    """Returns the SHA-256 of the names and pixels of all images of a folder; files may be compressed differently."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.png")):
        digest.update(str(file.relative_to(folder)).encode())
        with Image.open(file) as image:
            digest.update(np.asarray(image.convert("RGB")).tobytes())
    return digest.hexdigest()


def write_prompts(folder: Path, seed: int) -> None:
    """Writes ``train.jsonl`` and ``test.jsonl`` with prompts of all tasks that no stage before has seen, some of the
    latter to ``validation.jsonl``, and the images that some ask about."""
    rng = random.Random(f"prompts {seed}")
    _, *sums = arithmetic.stage_split()
    held_out = [scene for scene in split()[1] if len(scene) == 2]
    for part, terms, scenes in zip(SCENES, sums, (stage_split()[1], held_out), strict=True):
        rows = part_rows(folder, part, terms[: SUMS[part]], scenes[: SCENES[part]], rng)
        files = {part: [row for task in TASKS for row in rows[task]]}
        if part == "test":
            files["validation"] = [row for task in TASKS for row in rows[task][:4]]
        for name, chosen in files.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))


def part_rows(
    folder: Path, part: str, sums: list[tuple[int, ...]], scenes: list[Scene], rng: random.Random
) -> dict[str, list[dict[str, str]]]:
    """Returns the prompts of one part by task: sums, and a question about each scene and its caption."""
    shutil.rmtree(folder / part, ignore_errors=True)
    (folder / part).mkdir(parents=True)
    asked: list[dict[str, str]] = []
    for i, scene in enumerate(scenes):
        file = f"{part}/{i:03d}.png"
        (folder / file).write_bytes(png(scene))
        question = rng.choice(questions(scene))
        asked.append(_row("mmu", str(question), answer(question, scene)) | {"image": file})
    named = [scene for scene in scenes if has_names(scene)]
    return {
        "text": [_row("text", arithmetic.question(terms), str(sum(terms))) for terms in sums],
        "mmu": asked,
        "t2i": [_row("t2i", caption(scene), caption(scene)) for scene in scenes],
        "r2i": [_row("r2i", request(scene), caption(scene)) for scene in named],
    }


def _row(task: str, prompt: str, label: str) -> dict[str, str]:
    return {"task": task, "prompt": prompt, "label": label}


@cache
def png(scene: Scene) -> bytes:
    """Returns the image of a scene as it is written to a file."""
    file = BytesIO()
    draw(scene).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
