"""Reading of ImageReward folders, and their conversion from the published ``ImageReward.pt``.

    python -m rewards.imaging.image_reward_files --input ImageReward.pt --output runs/image_reward

The folder that this writes loads faster, and its file cannot hold code.
"""

from __future__ import annotations

import argparse
import json
import operator
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from safetensors.torch import save_file
from torch import Tensor

from rewards.imaging.image_reward_model import UNUSED, ImageRewardModel, configs_of, to_transformers_names
from rewards.imaging.weights import find_file, load_exactly, processor_folder, read_weights

WEIGHT_FILES = ("model.safetensors", "ImageReward.pt")
CONFIG_FILE = "config.json"


def weights_file(model: str) -> Path:
    """Returns the file of the weights of a folder or file; one of the Hub is downloaded, with config and tokenizer."""
    processor_folder(model)
    return find_file(model, WEIGHT_FILES)


def load_image_reward(model: str) -> ImageRewardModel:
    """Returns an ImageReward in float32 for evaluation.

    Args:
        model: The published file, or a folder or Hub name with it, or a folder that :func:`save_image_reward` wrote. A
            ``config.json`` beside the weights gives the numbers of attention heads if they are not the published ones.

    Raises:
        ValueError: No such file, or one that holds something else.
    """
    path = weights_file(model)
    weights = read_weights(path)
    try:
        vision, text = configs_of(weights, **_heads(path.parent))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    network = ImageRewardModel(vision, text)
    load_exactly(network, to_transformers_names(weights), str(path))
    return network.float().eval().requires_grad_(False)


def save_image_reward(
    weights: Mapping[str, Shaped[Tensor, "*_"]],
    folder: Path,
    *,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> None:
    """Writes ``model.safetensors``, with the published names, and ``config.json``.

    Raises:
        ValueError: The weights are those of another architecture.
    """
    vision, text = configs_of(weights, vision_heads=vision_heads, text_heads=text_heads)
    heads = {"vision_heads": vision.num_attention_heads, "text_heads": text.num_attention_heads}
    used = {name: value.contiguous() for name, value in weights.items() if not UNUSED.match(name)}
    with torch.device("meta"):
        load_exactly(ImageRewardModel(vision, text), to_transformers_names(used), "weights to save", assign=True)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(used, folder / WEIGHT_FILES[0])
    (folder / CONFIG_FILE).write_text(json.dumps({"model_type": "image_reward", **heads}, indent=1) + "\n")


def _heads(folder: Path) -> dict[str, int]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    try:
        config = dict(json.loads(path.read_text("utf-8")))
        return {name: operator.index(config[name]) for name in ("vision_heads", "text_heads") if name in config}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected an object with whole numbers as vision_heads and text_heads ({type(error).__name__}: "
            f"{error}); convert the published file again"
        ) from error


def main() -> None:
    """Converts the published file of ImageReward into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="the published ImageReward.pt")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    save_image_reward(read_weights(arguments.input), arguments.output)


if __name__ == "__main__":
    main()
