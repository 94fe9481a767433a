"""Trains the tiny image tokenizer on the images of shapes.py: 16 codes of 8 bits for 64 x 64 pixels.

    python examples/tiny/make_image_tokenizer.py --output examples/tiny/image_tokenizer

The class and the folder format are those of the real image tokenizer, with small sizes. It learns to restore the
pixels, with the entropy term of lookup-free quantisation (arXiv:2310.05737, equation 4) so that all codes are used.
The script writes reconstructions.png, and training.json with the fraction of held-out images that the rule of
shapes.py reads correctly after reconstruction.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from shapes import GROUND, SIDE, caption, draw, matches, split
from torch import Tensor
from tqdm import trange

from unigrpo.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from unigrpo.rng import keyed_generator

NUM_SHOWN = 8
SHAPE_WEIGHT = 4.0
ENTROPY_WEIGHT = 0.02
BATCH_ENTROPY_FACTOR = 2.0
"""Weight of the entropy of the mean code relative to the mean entropy of a square's code."""


def main() -> None:
    """Trains the image tokenizer and saves it with a record of the training."""
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    training, held_out = split()
    model = ImageTokenizer(
        ImageTokenizerConfig(
            num_bits=8,
            stem_channels=32,
            encoder_channels=[32, 32, 32, 64, 64],
            encoder_blocks=[0, 0, 1, 1, 1],
            decoder_channels=[32, 32, 32, 64, 64],
            decoder_blocks=[0, 1, 1, 1, 1],
        )
    )
    started = time.monotonic()
    losses = train(model, as_pixels([draw(scene) for scene in training]), arguments)
    seconds = round(time.monotonic() - started, 1)
    originals = [draw(scene) for scene in held_out]
    codes = model.eval().encode(as_pixels(originals))
    restored = model.codes_to_images(codes)
    alike = [matches(image, caption(scene)) for image, scene in zip(restored, held_out, strict=True)]
    record = {
        "command": "python " + " ".join(sys.argv),
        "seed": arguments.seed,
        "num_parameters": model.num_parameters(),
        "seconds": seconds,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU threads",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "loss": losses,
        "held_out": {
            "images": len(held_out),
            "read_alike": round(sum(alike) / len(alike), 4),
            "codes_in_use": int(codes.unique().numel()),
        },
    }
    model.save_pretrained(arguments.output)
    (arguments.output / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    side_by_side(originals[:NUM_SHOWN], restored[:NUM_SHOWN]).save(arguments.output / "reconstructions.png")
    print(json.dumps(record["held_out"]))


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--num_steps", type=int, default=1500, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=24, help="images of a step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and draws (default: %(default)s)")
    return parser.parse_args()


def as_pixels(images: list[Image.Image]) -> Tensor:
    """Returns pixels (N, 3, H, W) in [-1, 1]."""
    arrays = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return arrays.permute(0, 3, 1, 2).float() / 127.5 - 1


def train(model: ImageTokenizer, pixels: Tensor, arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Trains the network to restore the pixels from the bits. Returns the losses every 250 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.lr, total_steps=arguments.num_steps, pct_start=0.05
    )
    generator = keyed_generator(arguments.seed, "image tokenizer")
    losses: list[dict[str, float]] = []
    model.train()
    for step in (bar := trange(arguments.num_steps, desc="image tokenizer", unit="step")):
        batch = pixels[torch.randint(len(pixels), (arguments.batch_size,), generator=generator)]
        latents = model.latents(batch)
        signs = torch.where(latents > 0, 1.0, -1.0)
        restored = model.decoder(latents + (signs - latents).detach())
        pixel_loss = restoration_loss(restored, batch)
        loss = pixel_loss + ENTROPY_WEIGHT * entropy_term(latents)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 0 or step == arguments.num_steps - 1:
            losses.append({"step": step, "pixels": round(pixel_loss.item(), 4), "total": round(loss.item(), 4)})
            bar.set_postfix(loss=losses[-1]["pixels"])
    return losses


def restoration_loss(restored: Tensor, original: Tensor) -> Tensor:
    """Returns the mean absolute and squared difference, in which pixels of shapes have a larger weight."""
    ground = torch.tensor(GROUND)[:, None, None] / 127.5 - 1
    is_shape = ((original - ground).abs() > 0.1).any(dim=1, keepdim=True)
    weight = 1 + (SHAPE_WEIGHT - 1) * is_shape
    difference = restored - original
    return (weight * (difference.abs() + difference**2)).mean()


def entropy_term(latents: Tensor) -> Tensor:
    """Returns the mean entropy of the code of a square minus a multiple of the entropy of the mean code, in nats.

    A number z is bit 1 with probability ``sigmoid(4 z)``, the softmax over its negative squared distances to -1 and 1.
    """
    logits = 4 * latents.permute(0, 2, 3, 1).flatten(0, 2)
    one = torch.sigmoid(logits)
    own = F.binary_cross_entropy_with_logits(logits, one, reduction="none").sum(dim=1).mean()
    codes = torch.ones(len(one), 1)
    for bit in one.unbind(dim=1):
        codes = torch.cat([codes * (1 - bit[:, None]), codes * bit[:, None]], dim=1)
    together = codes.mean(dim=0)
    return own + BATCH_ENTROPY_FACTOR * (together * (together + 1e-8).log()).sum()


def side_by_side(originals: list[Image.Image], restored: list[Image.Image]) -> Image.Image:
    """Returns a grid with images in the first row and their reconstructions below."""
    page = Image.new("RGB", (SIDE * len(originals), 2 * SIDE))
    for i, (above, below) in enumerate(zip(originals, restored, strict=True)):
        page.paste(above, (i * SIDE, 0))
        page.paste(below, (i * SIDE, SIDE))
    return page


if __name__ == "__main__":
    main()
