"""Makes a figure with samples of the same captions from the model before UniGRPO and from a run's policy.

    python examples/tiny/before_after.py runs/multi_seed/seed_1

Each column has samples of a held-out caption, from before the run in the upper half and from after it in the lower
half. Images that are wrong according to the rule of shapes.py have a red frame. The captions are the first ones of the
file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from shapes import matches

import unigrpo
from unigrpo.runs.image_grid import captioned_grid

HERE = Path(__file__).parent
NUM_CAPTIONS, NUM_SAMPLES, SEED = 8, 4, 0
SIDE, FRAME = 116, 6
"""Size of a cell of the figure, and of a frame within it, in pixels."""


def main() -> None:
    """Samples with both models and writes the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory of a finished quickstart")
    parser.add_argument("--output", type=Path, default=HERE / "before_after.png", help="figure (default: %(default)s)")
    arguments = parser.parse_args()
    rows = map(json.loads, (HERE / "world" / "test.jsonl").read_text().splitlines())
    captions = [row["prompt"] for row in rows if row["task"] == "t2i"][:NUM_CAPTIONS]
    columns: dict[str, list[np.ndarray]] = {caption: [] for caption in captions}
    policies = [unigrpo.Policy.from_pretrained(folder) for folder in (HERE / "mixcot", arguments.run / "policy")]
    sampling = policies[-1].sampling
    assert sampling is not None  # every exported policy has its settings, which serve for both models here
    for name, policy in zip(("before", "after"), policies, strict=True):
        num_right = 0
        for caption in captions:
            samples = policy.sample([caption] * NUM_SAMPLES, task="t2i", image=sampling.image_sampling(), seed=SEED)
            images = [sample.image for sample in samples if sample.image]
            num_right += sum(matches(image, caption) for image in images)
            columns[caption] += [framed(image, caption) for image in images]
        print(f"{name}: {num_right} of {NUM_CAPTIONS * NUM_SAMPLES} images are right")
    captioned_grid(list(columns.items()), SIDE).save(arguments.output)


def framed(image: Image.Image, caption: str) -> np.ndarray:
    """Returns an image with a frame, which is white if the image fits the caption and red otherwise."""
    side = SIDE - 2 * FRAME
    inner = image.resize((side, side), Image.Resampling.NEAREST)
    return np.asarray(ImageOps.expand(inner, FRAME, "white" if matches(image, caption) else "red"))


if __name__ == "__main__":
    main()
