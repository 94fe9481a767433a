"""Prompts and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from unigrpo.config.checks import choice, positive, require

TASKS = ("text", "mmu", "t2i", "r2i")
"""Text reasoning, image understanding, text-to-image, and thinking before drawing: MMaDA's names."""
Fit = Literal["crop", "stretch", "pad"]
"""How an image becomes a square.

`crop`: the short side is resized, and the middle cut out; how MMaDA reads photos. `stretch`: both sides are resized,
whatever the shape; for charts, documents and visual questions. `pad`: white to both sides of the short one; for
geometry.
"""
PromptTemplate = Literal["chat", "chat_one_newline", "chat_two_newlines", "plain"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    prompt_dataset: str = "examples/tiny/prompts/train.jsonl"
    """Prompts to train on: a JSONL file, several joined by commas, or the name of a Hugging Face data set."""
    prompt_probs: tuple[float, ...] = ()
    """Relative share of each file or data set of prompt_dataset among the prompts; empty goes through all as one."""
    prompt_split: str = "train"
    """Split, if prompt_dataset is a Hugging Face data set."""
    tasks: tuple[str, ...] = ()
    """Train and evaluate only on prompts of these tasks; empty is all that there are."""
    input_key: str = ""
    """Column of the question; empty finds `prompt`, `question` or `problem`."""
    label_key: str = ""
    """Column of the gold answer; empty finds `label`, `answer` or `solution`. Text behind `####` is the gold."""
    max_samples: int = 0
    """Use only the first so many prompts, of each task alike; 0 uses all."""
    max_prompt_tokens: int = 512
    """A prompt with more tokens is an error, found before training starts."""
    prompt_template: PromptTemplate = "chat"
    """`chat` applies the tokenizer's chat template, `plain` puts begin-of-text before the text. `chat_one_newline` and
    `chat_two_newlines` are the forms that MMaDA and LLaDA were trained with, whatever the tokenizer brings along."""
    instruction: str = ""
    """Text put before every question, for example the request to think first."""

    def __post_init__(self) -> None:
        require(bool(self.prompt_dataset), "data.prompt_dataset is empty; name a JSONL file or a data set")
        num_datasets = self.prompt_dataset.count(",") + 1
        require(
            len(self.prompt_probs) in (0, num_datasets),
            f"data.prompt_probs has {len(self.prompt_probs)} numbers for {num_datasets} files; give one to each",
        )
        for share in self.prompt_probs:
            positive("data.prompt_probs: a share", share)
        for task in self.tasks:
            choice("data.tasks", task, TASKS)
        require(self.max_samples >= 0, f"data.max_samples is {self.max_samples}; use 0 for all prompts")
        positive("data.max_prompt_tokens", self.max_prompt_tokens)
        choice("data.prompt_template", self.prompt_template, get_args(PromptTemplate))


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    tokenizer: str = ""
    """Folder or Hub name of the image tokenizer, for every task with images; empty is the folder `image_tokenizer` of
    the model, if it has one."""
    resolution: int = 256
    """Pixels of a side of every image."""
    fit: Fit = "crop"
    """How an image becomes square: `crop` the middle, `stretch` or `pad` with white."""

    def __post_init__(self) -> None:
        positive("image.resolution", self.resolution)
        choice("image.fit", self.fit, get_args(Fit))
