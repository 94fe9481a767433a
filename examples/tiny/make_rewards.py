"""Trains the tiny CLIP and the tiny ImageReward on coloured shapes, in some minutes each on one CPU thread.

    python examples/tiny/make_rewards.py --output examples/tiny

This command writes ``clip/`` and ``image_reward/`` in the formats of the published models, which the rewards load, and
next to the weights a record of how often they rank the right image of a held-out caption above a wrong one.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image, ImageFilter
from shapes import COLOURS, GROUND, PHRASES, RADII, SHAPES, Scene, caption, draw, neighbours, scenes, split
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid
from tqdm import trange
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipVisionConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
)

from rewards.base import RewardInput
from rewards.imaging.image_reward_files import save_image_reward
from rewards.imaging.image_reward_model import MEAN, STD, ImageRewardModel, to_pixels, to_published_names
from rewards.loading import load_reward

SIDE = 64
DRAWINGS = 4
"""Images of each training scene."""
WIDTH, NUM_HEADS = 64, 4
VISION: dict[str, Any] = {"hidden_size": WIDTH, "num_attention_heads": NUM_HEADS, "image_size": SIDE, "patch_size": 8}
SPREAD = 0.1
"""Standard deviation of the initial weights of ImageReward. The defaults of transformers are for wide layers."""
HALVES = ((0, 0, 32, 64), (32, 0, 64, 64), (0, 0, 64, 32), (0, 32, 64, 64))
WRONG_PER_PROMPT = 4


def main() -> None:
    """Trains and saves both reward models, or the one that the command line names."""
    arguments = parse_arguments()
    images = Images(arguments.seed)
    for name, train in (("clip", train_clip), ("image_reward", train_image_reward)):
        if name not in arguments.only:
            continue
        torch.manual_seed(arguments.seed)
        folder: Path = arguments.output / name
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        losses = train(folder, images, arguments)
        record = {
            "command": "python " + " ".join(sys.argv),
            "seed": arguments.seed,
            "seconds": round(time.monotonic() - started, 1),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} CPU threads",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "loss_nats": losses,
            "held_out": measure(name, folder),
        }
        (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
        print(name, json.dumps(record["held_out"]))


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write both models into")
    parser.add_argument("--only", nargs="+", default=["clip", "image_reward"], help="models to make (default: both)")
    parser.add_argument("--num_steps", type=int, default=1000, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=96, help="scenes of a step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and draws (default: %(default)s)")
    return parser.parse_args()


class Images:
    """Images of the training scenes as pixels, and a generator that chooses among them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.train_scenes = split()[0]
        self._known = set(self.train_scenes)
        drawn = [[draw(scene, self.rng) for _ in range(DRAWINGS)] for scene in self.train_scenes]
        self._drawings = dict(zip(self.train_scenes, drawn, strict=True))

    def of(self, scene: Scene) -> Image.Image:
        return self.rng.choice(self._drawings[scene])

    def near(self, scene: Scene) -> Scene:
        """Returns a training scene that differs in one attribute.

        In at least a third of the cases this is the position, which is hardest to learn.
        """
        known = [s for s in neighbours(scene) if s in self._known]
        moved = [s for s in known if kinds(s) == kinds(scene)]
        return self.rng.choice(moved if moved and self.rng.random() < 1 / 3 else known)

    def worse(self, scene: Scene) -> Image.Image:
        """Returns an image of another scene, or a damaged image of this scene."""
        if self.rng.random() < 0.5:
            return self._damaged(self.of(scene))
        return self.of(self.rng.choice([s for s in self.train_scenes if s != scene]))

    def _damaged(self, image: Image.Image) -> Image.Image:
        damage = self.rng.randrange(3)
        if damage == 0:
            return image.filter(ImageFilter.GaussianBlur(self.rng.uniform(2, 8)))
        if damage == 1:
            values = np.random.default_rng(self.rng.getrandbits(32)).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            return Image.blend(image, Image.fromarray(values), self.rng.uniform(0.3, 1))
        covered = image.copy()
        covered.paste(GROUND, self.rng.choice(HALVES))
        return covered if covered.tobytes() != image.tobytes() else Image.new("RGB", image.size, GROUND)


def kinds(scene: Scene) -> set[tuple[str, str, str]]:
    """Returns the things of a scene without their positions."""
    return {(thing.size, thing.colour, thing.shape) for thing in scene}


def train_clip(folder: Path, images: Images, arguments: argparse.Namespace) -> list[float]:
    """Trains with a contrastive loss on batches in which half of the scenes differ from the other half in one
    attribute."""
    tokenizer = save_clip_tokenizer(folder)
    sizes = {"hidden_size": WIDTH, "num_attention_heads": NUM_HEADS, "intermediate_size": 160}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 77, "num_hidden_layers": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**sizes, **text, **ids, "pad_token_id": tokenizer.pad_token_id},
        vision_config={**sizes, **VISION, "num_hidden_layers": 3},
        projection_dim=48,
    )
    model = CLIPModel(config)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )

    def loss_of_batch() -> Tensor:
        chosen = images.rng.sample(images.train_scenes, arguments.batch_size // 2)
        batch = list(dict.fromkeys([*chosen, *map(images.near, chosen)]))
        tokens = tokenizer([caption(scene) for scene in batch], padding=True, return_tensors="pt")
        out = model(**tokens, pixel_values=to_pixels([images.of(scene) for scene in batch], SIDE))
        targets = torch.arange(len(batch))
        return (cross_entropy(out.logits_per_image, targets) + cross_entropy(out.logits_per_text, targets)) / 2

    losses = optimize(model, loss_of_batch, arguments, "CLIP")
    model.save_pretrained(folder)
    return losses


def train_image_reward(folder: Path, images: Images, arguments: argparse.Namespace) -> list[float]:
    """Trains with preferences between a right and a worse image of a caption (arXiv:2304.05977, equation 1)."""
    tokenizer = save_bert_tokenizer(folder)
    network = ImageRewardModel(
        BlipVisionConfig(
            **VISION, intermediate_size=160, num_hidden_layers=3, layer_norm_eps=1e-6, initializer_range=SPREAD
        ),
        BlipTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            encoder_hidden_size=WIDTH,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=NUM_HEADS,
            initializer_range=SPREAD,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            is_decoder=True,
            pad_token_id=0,
            bos_token_id=None,
            sep_token_id=None,
        ),
    )

    def score(size: int) -> tuple[Tensor, Tensor]:
        """Returns the scores of right images, and of worse images for the same captions."""
        half, quarter = size // 2, size // 4
        chosen = images.rng.sample(images.train_scenes, half)
        near = list(map(images.near, chosen))
        shown = [*map(images.of, [*chosen, *near]), *map(images.worse, chosen[:quarter])]
        seen = network.vision(pixel_values=to_pixels(shown, SIDE)).last_hidden_state
        asked = [*chosen, *near, *chosen, *near, *chosen[:quarter]]
        tokens = tokenizer([caption(scene) for scene in asked], padding=True, return_tensors="pt")
        of_near, of_chosen, worse = seen[half:size], seen[:half], seen[size:]
        looked_at = torch.cat([seen[:size], of_near, of_chosen, worse])
        numbers = network.head(network.text_hidden(tokens["input_ids"], tokens["attention_mask"], looked_at)[:, 0])
        right = torch.cat([numbers[:size], numbers[:quarter]])
        return right, numbers[size:]

    def loss_of_batch() -> Tensor:
        right, worse = score(arguments.batch_size)
        return -logsigmoid((right - worse) / STD).mean()

    losses = optimize(network, loss_of_batch, arguments, "ImageReward")
    with torch.no_grad():
        raw = torch.cat(score(400))
        last = network.head.layers[-1]
        assert isinstance(last, nn.Linear)
        # Scale the head so that its scores have the mean and the standard deviation of the published constants.
        last.bias.copy_((last.bias - raw.mean()) * STD / raw.std() + MEAN)
        last.weight.mul_(STD / raw.std())
    save_image_reward(to_published_names(network.state_dict()), folder, vision_heads=NUM_HEADS, text_heads=NUM_HEADS)
    return losses


def optimize(
    model: nn.Module, loss_of_batch: Callable[[], Tensor], arguments: argparse.Namespace, name: str
) -> list[float]:
    """Trains with AdamW, a warm-up and a cosine schedule to 0. Returns the loss every 50 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.lr, total_steps=arguments.num_steps, pct_start=0.1
    )
    losses: list[float] = []
    model.train()
    for step in (bar := trange(arguments.num_steps, desc=name, unit="step")):
        loss = loss_of_batch()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            losses.append(round(loss.item(), 4))
            bar.set_postfix(loss=losses[-1])
    model.eval()
    return losses


def measure(name: str, folder: Path) -> dict[str, float]:
    """Returns the fraction of held-out captions and wrong images for which the reward scores the right image
    higher."""
    options: dict[str, Any] = {"model": str(folder), "device": "cpu"}
    reward = (
        load_reward("clip_score", {**options, "scale": "cosine"}) if name == "clip" else load_reward(name, options)
    )
    rng, everything = random.Random("held-out images"), scenes()
    results: dict[str, float] = {}
    for kind in ("one_attribute_wrong", "another_scene"):
        inputs: list[RewardInput] = []
        for scene in split()[1]:
            others = neighbours(scene) if kind == "one_attribute_wrong" else [s for s in everything if s != scene]
            shown = [scene, *rng.sample(others, WRONG_PER_PROMPT)]
            inputs += [
                RewardInput(prompt=caption(scene), completion="", task="t2i", image=draw(s, rng)) for s in shown
            ]
        values = torch.tensor(reward(inputs)).view(-1, 1 + WRONG_PER_PROMPT)
        results[kind] = round((values[:, :1] > values[:, 1:]).float().mean().item(), 4)
    return results


def words() -> list[str]:
    """Returns all words of the captions."""
    phrases = " ".join(PHRASES.values()).split()
    return sorted({"a", "and", *RADII, *COLOURS, *SHAPES, *phrases})


def save_clip_tokenizer(folder: Path) -> CLIPTokenizer:
    """Saves CLIP's tokenizer with merges for the words of the captions; other words are encoded as bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    learned = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learned.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=1000, end_of_word_suffix="</w>", show_progress=False)  # pyright: ignore[reportCallIssue]
    learned.train_from_iterator([" ".join(words())], trainer)
    merges = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]
    names = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=merges)  # pyright: ignore[reportArgumentType]
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_bert_tokenizer(folder: Path) -> BertTokenizer:
    """Saves BERT's tokenizer with the words of the captions; other words are encoded as letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,-"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = dict.fromkeys([*special, *words(), *letters, *("##" + letter for letter in letters)])
    tokenizer = BertTokenizer(vocab={name: i for i, name in enumerate(names)})
    tokenizer.save_pretrained(folder)
    return tokenizer


if __name__ == "__main__":
    main()
