"""Writes the tiny data: data of all five stages in the formats of real data sets, prompts, and an initial model.

    python examples/tiny/make_world.py --output runs/tiny_world --image_tokenizer runs/tiny_world/image_tokenizer

Training data has errors, as data from the web has: some captions are wrong in one attribute, and some thoughts misread
the image or have a wrong sum. A policy that imitates these data can still find the right answer, which UniGRPO
reinforces.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import arithmetic
import datasets
import torch
from character_tokenizer import SPECIAL_TOKENS, save_word_tokenizer
from prompt_images import png, write_prompts
from questions import DESCRIBE, Question, answer, has_names, look, misread, questions, request, words
from shapes import Scene, caption, neighbours, split, stage_split
from tqdm import tqdm
from transformers import AutoTokenizer, GenerationConfig
from webdataset.writer import TarWriter

from unigrpo.data.cot_format import render
from unigrpo.models.image_tokenizer import load_image_tokenizer
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

WRONG_CAPTIONS = 0.3
"""Fraction of captions and of requests for images with a wrong image."""
MISREAD = 0.4
"""Fraction of thoughts about an image that misread it, with an answer that follows from them."""
SIZES = {"pairs": 16000, "journey": 16000, "instructions": 12000, "reasoning": 30000, "drawing": 12000}
"""Number of rows of each source: several for each scene, so that most of them are right."""


def main() -> None:
    """Writes the data of all stages, the prompts of UniGRPO and the first model."""
    arguments = parse_arguments()
    world = World(arguments.output, arguments.seed)
    world.write_training()
    world.write_held_out()
    write_prompts(arguments.output / "prompts", arguments.seed)
    write_first_model(arguments.output / "start", arguments.image_tokenizer, arguments.seed)


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--image_tokenizer", type=Path, required=True, help="folder of make_image_tokenizer.py")
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default: %(default)s)")
    return parser.parse_args()


class World:
    """Writes the data of the stages into a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._rng = random.Random(seed)
        self._scenes, _ = stage_split()
        self._known = set(self._scenes)
        _, self._held_out = split()
        self._sums, _, self._held_out_sums = arithmetic.stage_split()

    def write_training(self) -> None:
        """Writes all files on which the stages train."""
        self.class_folders()
        for shard in range(4):
            self.tar(f"pairs/{shard:04d}.tar", self.pick(self._scenes, SIZES["pairs"] // 4), self.noisy_caption)
        self.journey(SIZES["journey"])
        self.path("requests.json").write_text(json.dumps([DESCRIBE]))
        self.documents([s for terms in self._sums for s in arithmetic_sentences(terms)])
        self.chats("chat.jsonl", self._sums)
        self.conversations("instructions", self.pick(self._scenes, SIZES["instructions"]))
        self.text_thoughts("thoughts.jsonl", self._sums, arithmetic.DEMONSTRATIONS_PER_PROBLEM)
        self.image_thoughts("reasoning", self.pick(self._scenes, SIZES["reasoning"]))
        self.drawing_thoughts("drawing", self.pick(filter(has_names, self._scenes), SIZES["drawing"]))

    def write_held_out(self) -> None:
        """Writes the files on which validation measures the loss, without errors."""
        scenes = self._held_out
        self.tar("held_out/pairs.tar", scenes, caption)
        self.text_thoughts("held_out/thoughts.jsonl", self._held_out_sums, 1, slips=False)
        self.image_thoughts("held_out/reasoning", scenes, errors=0.0)
        self.drawing_thoughts("held_out/drawing", [s for s in scenes if has_names(s)], errors=0.0)

    def pick(self, scenes: Iterable[Scene], number: int) -> list[Scene]:
        """Returns a number of scenes, each almost equally often."""
        known = list(scenes)
        order = [known[i % len(known)] for i in range(number)]
        self._rng.shuffle(order)
        return order

    def noisy_caption(self, scene: Scene) -> str:
        wrong = self._rng.random() < WRONG_CAPTIONS
        return caption(self.near(scene) if wrong else scene)

    def near(self, scene: Scene) -> Scene:
        """Returns another scene of the stages, because wrong images must not show scenes of UniGRPO or of the
        evaluation."""
        return self._rng.choice([other for other in neighbours(scene) if other in self._known])

    def class_folders(self) -> None:
        """Writes single shapes in folders with their names, as in ImageNet."""
        for scene in self._scenes:
            if len(scene) == 1:
                self.image_file(scene, f"classes/{caption(scene).replace(' ', '_')}")

    def tar(self, name: str, scenes: list[Scene], caption_of: Callable[[Scene], str]) -> None:
        """Writes a webdataset tar with captions next to the images."""
        path = self.path(name)
        with TarWriter(str(path)) as writer:
            for i, scene in enumerate(tqdm(scenes, desc=name)):
                writer.write({"__key__": f"{path.stem}{i:06d}", "png": png(scene), "txt": caption_of(scene)})

    def journey(self, number: int) -> None:
        """Writes a tar of images with a JSON file of prompts, like JourneyDB."""
        prompts: dict[str, list[str]] = {}
        with TarWriter(str(self.path("journey/000.tar"))) as writer:
            for i, scene in enumerate(tqdm(self.pick(self._scenes, number), desc="journey")):
                key = f"{i:06d}"
                writer.write({"__key__": key, "png": png(scene)})
                prompts[key] = [self.noisy_caption(scene)]
        self.path("journey/captions.json").write_text(json.dumps(prompts))

    def documents(self, texts: list[str]) -> None:
        """Writes plain text in parquet, like RefinedWeb."""
        texts = [*texts, *(self.noisy_caption(scene) for scene in self._scenes)]
        self._rng.shuffle(texts)
        datasets.Dataset.from_dict({"content": texts}).to_parquet(self.path("documents.parquet"))

    def chats(self, name: str, sums: list[tuple[int, ...]]) -> None:
        """Writes requests with direct answers."""
        rows = []
        for terms in sums:
            turns = (("user", arithmetic.question(terms)), ("assistant", str(sum(terms))))
            rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
        self.json_lines(name, rows)

    def conversations(self, name: str, scenes: list[Scene]) -> None:
        """Writes images with two questions each, which are answered directly, like LLaVA's."""
        rows = []
        for scene in tqdm(scenes, desc=name):
            file = self.image_file(scene, name)
            first, second = self.some_questions(scene, 2)
            seen = self.seen(scene, first, MISREAD)
            turns = [("human", f"<image>\n{first}"), ("gpt", answer(first, seen)), ("human", str(second))]
            turns.append(("gpt", answer(second, self.seen(scene, second, MISREAD))))
            rows.append({"image": file, "conversations": [{"from": who, "value": text} for who, text in turns]})
        self.path(f"{name}.json").write_text(json.dumps(rows))

    def text_thoughts(self, name: str, sums: list[tuple[int, ...]], copies: int, slips: bool = True) -> None:
        """Writes sums with the steps that lead to them."""
        rows = []
        for terms in sums:
            for _ in range(copies):
                drawn = arithmetic.draw_slips(self._rng) if slips else ()
                thinking, _, result = arithmetic.thoughts_and_answer(terms, drawn)[len("<think>") :].partition(
                    "</think>"
                )
                rows.append({"question": arithmetic.question(terms), "reasoning": thinking, "answer": result})
        self.json_lines(name, rows)

    def image_thoughts(self, name: str, scenes: list[Scene], errors: float = MISREAD) -> None:
        """Writes images, questions, and answers after thoughts about the image as CSV, as the paper's multimodal
        data."""
        rows = []
        for scene in tqdm(scenes, desc=name):
            question = self.some_questions(scene, 1)[0]
            seen = self.seen(scene, question, errors)
            solution = render(look(seen), answer(question, seen))
            rows.append((self.image_file(scene, name), str(question), solution))
        with self.path(f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("image", "question", "solution"), *rows])

    def drawing_thoughts(self, name: str, scenes: list[Scene], errors: float = WRONG_CAPTIONS) -> None:
        """Writes requests by names, the thoughts about them, and the images."""
        rows = []
        for scene in tqdm(scenes, desc=name):
            drawn = self.near(scene) if self._rng.random() < errors else scene
            file = self.image_file(drawn, name)
            rows.append({"question": request(scene), "reasoning": look(drawn), "image": file})
        self.json_lines(f"{name}.jsonl", rows)

    def some_questions(self, scene: Scene, number: int) -> list[Question]:
        """Returns different questions."""
        return self._rng.sample(questions(scene), number)

    def seen(self, scene: Scene, question: Question, errors: float) -> Scene:
        return misread(scene, question, self._rng) if self._rng.random() < errors else scene

    def image_file(self, scene: Scene, folder: str) -> str:
        """Writes the image of a scene into a folder once, and returns its path relative to the folder of the
        tables."""
        name = f"{folder}/{caption(scene).replace(' ', '_')}.png"
        if not self.path(name).exists():
            self.path(name).write_bytes(png(scene))
        return name.removeprefix("held_out/")

    def json_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        self._rng.shuffle(rows)
        self.path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def path(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def arithmetic_sentences(terms: tuple[int, ...]) -> Iterator[str]:
    """Returns a sum and its steps as a text."""
    yield f"{arithmetic.question(terms)}{sum(terms)}"
    yield f"{terms[0]}+{terms[1]}={terms[0] + terms[1]}"


def write_first_model(folder: Path, image_tokenizer: Path, seed: int) -> None:
    """Writes a model of the real class with small sizes and random weights, and its tokenizers."""
    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_word_tokenizer(folder, words())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer_of_images = load_image_tokenizer(image_tokenizer)
    ids = {name: tokenizer.get_vocab()[token] for name, token in SPECIAL_TOKENS.items()}
    model = MMadaModelLM(
        MMadaConfig(
            d_model=128,
            n_layers=4,
            n_heads=4,
            mlp_hidden_size=384,
            vocab_size=len(tokenizer) + tokenizer_of_images.codebook_size,
            max_sequence_length=256,
            mask_token_id=ids["mask"],
            bos_token_id=ids["begin_of_text"],
            eos_token_id=ids["end_of_text"],
            pad_token_id=ids["end_of_text"],
            special_token_ids=ids,
            codebook_size=tokenizer_of_images.codebook_size,
        )
    )
    model.generation_config = GenerationConfig(
        bos_token_id=ids["begin_of_text"], eos_token_id=ids["end_of_text"], pad_token_id=ids["end_of_text"]
    )
    model.save_pretrained(folder)
    tokenizer_of_images.save_pretrained(folder / "image_tokenizer")


if __name__ == "__main__":
    main()
