"""Writes the images of the tiny prompts.

Usage: python examples/tiny/prompt_images.py

The prompt files in examples/tiny/world are tracked; their 896 images are drawn by this script, which takes about a
second and does nothing if they are there. A checksum of the pixels guards that every machine draws the same images.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import arithmetic
import numpy as np
from PIL import Image
from questions import Question, answer, has_names, questions, request
from shapes import Scene, caption, draw, split

from unigrpo.config import TASKS

FOLDER = Path(__file__).parent / "world"
PIXELS = "f2d3702ea9a877fbe4e25f9d0e0bd79514ee8147ded3ae9afd922076eed8a974"
"""SHA-256 of the names and pixels of all images."""
NUM_SINGLE = 24
"""Largest number of prompts of each part that ask for an image of one shape; all others ask for two."""


def main() -> None:
    """Writes the images that are missing.

    Raises:
        SystemExit: This machine draws other images, or the prompt files are not those of this script.
    """
    if is_written(FOLDER):
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


def is_written(folder: Path) -> bool:
    """Whether every image that a prompt file names exists."""
    names = [json.loads(line).get("image") for file in folder.glob("*.jsonl") for line in file.open()]
    return all((folder / name).is_file() for name in names if name)


def checksum(folder: Path) -> str:
    """Returns the SHA-256 of the names and pixels of all images of a folder; files may be compressed differently."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.png")):
        digest.update(str(file.relative_to(folder)).encode())
        with Image.open(file) as image:
            digest.update(np.asarray(image.convert("RGB")).tobytes())
    return digest.hexdigest()


def picked_questions(scene: Scene, number: int, rng: random.Random) -> Iterator[Question]:
    """Different questions about a scene; each kind as often as the others."""
    by_kind: dict[str, list[Question]] = {}
    for question in questions(scene):
        by_kind.setdefault(question.kind, []).append(question)
    for kind in rng.sample(sorted(by_kind), number):
        yield rng.choice(by_kind[kind])


def write_prompts(folder: Path, seed: int) -> None:
    """``train.jsonl`` and ``test.jsonl`` with prompts of all tasks, and the pictures that some ask about."""
    rng = random.Random(f"prompts {seed}")
    numbers = {
        "train": {"text": 547, "mmu": 800, "t2i": 500, "r2i": 160},
        "test": dict.fromkeys(("text", "mmu", "t2i"), 96),
    }
    numbers["test"]["r2i"] = 48
    for part, sums, scenes in zip(numbers, arithmetic.split(), split(), strict=True):
        shutil.rmtree(folder / part, ignore_errors=True)
        (folder / part).mkdir(parents=True)
        rows = [{"task": "text", "prompt": arithmetic.question(t), "label": str(sum(t))} for t in sums]
        rows = rows[: numbers[part]["text"]]
        for i, scene in enumerate(rng.choices(scenes, k=numbers[part]["mmu"])):
            name = f"{part}/{i:03d}.png"
            (folder / name).write_bytes(png(scene))
            question = next(picked_questions(scene, 1, rng))
            rows.append({"task": "mmu", "prompt": str(question), "label": answer(question, scene), "image": name})
        single = [scene for scene in scenes if len(scene) == 1][:NUM_SINGLE]
        others = [scene for scene in scenes if len(scene) > 1]
        for scene in [*single, *rng.sample(others, min(numbers[part]["t2i"] - len(single), len(others)))]:
            rows.append({"task": "t2i", "prompt": caption(scene), "label": caption(scene)})
        named = [scene for scene in scenes if has_names(scene)]
        for scene in rng.sample(named, min(numbers[part]["r2i"], len(named))):
            rows.append({"task": "r2i", "prompt": request(scene), "label": caption(scene)})
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if part == "test":
            shown = [row for task in TASKS for row in [r for r in rows if r["task"] == task][:4]]
            (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))


@cache
def png(scene: Scene) -> bytes:
    """The picture of a scene, as in a file."""
    file = BytesIO()
    draw(scene).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    main()
