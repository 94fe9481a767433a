"""Compares CLIP score and ImageReward of images in batches and one by one, in the same run.

python tests/benchmarks/image_rewards.py [--clip FOLDER] [--image_reward FOLDER] [--device cuda]

The default is the tiny models of examples/tiny; the folders may be those of published checkpoints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from measure import interleaved, row, write
from PIL import Image

from rewards.base import Reward, RewardInput
from rewards.loading import load_reward

TINY = Path(__file__).parents[2] / "examples" / "tiny"
NUM_IMAGES = 64
PROMPTS = 8
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default=str(TINY / "clip"))
    parser.add_argument("--image_reward", default=str(TINY / "image_reward"))
    parser.add_argument("--device", default="auto")
    flags = parser.parse_args()
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 256, 256, 3), dtype=np.uint8)
    inputs = [
        RewardInput(prompt=f"a picture of {i % PROMPTS} circles", completion="", task="t2i", image=Image.fromarray(p))
        for i, p in enumerate(pixels)
    ]
    rows, rates = [], {}
    for name, folder in (("clip_score", flags.clip), ("image_reward", flags.image_reward)):
        reward = load_reward(name, {"model": folder, "device": flags.device})
        reward.load()
        seconds = interleaved(
            {"batched": lambda r=reward: r(inputs), "one by one": lambda r=reward: one_by_one(r, inputs)}, ROUNDS
        )
        rows.append(row(f"{name} of {NUM_IMAGES} images", seconds["one by one"], seconds["batched"], "s"))
        rates[Path(folder).name] = {how: round(NUM_IMAGES / s, 1) for how, s in seconds.items()}
    write("image_rewards", rows, prompts=PROMPTS, images_per_second=rates)


def one_by_one(reward: Reward, inputs: list[RewardInput]) -> list[float | None]:
    return [value for item in inputs for value in reward([item])]


if __name__ == "__main__":
    main()
