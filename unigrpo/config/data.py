"""Settings of prompts and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from unigrpo.config.checks import choice, positive, require
from unigrpo.config.paths import InputPath, InputPaths

TASKS = ("text", "mmu", "t2i", "r2i")
"""MMaDA's task names: text reasoning, image understanding, text to image, and thinking before text to image."""
Fit = Literal["crop", "stretch", "pad"]
"""How an image becomes a square.

`crop` resizes the short side and keeps the middle, as MMaDA reads photos. `stretch` resizes both sides whatever the
shape is; MMaDA uses it for charts, documents and visual questions. `pad` adds white at both ends of the short side;
MMaDA uses it for geometry.
"""
PromptTemplate = Literal["chat", "chat_one_newline", "chat_two_newlines", "plain"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    prompt_dataset: InputPaths = "examples/tiny/prompts/train.jsonl"
    """Prompts to train on: a JSONL file, the name of a Hugging Face data set, or several of these joined by commas."""
    prompt_probs: tuple[float, ...] = ()
    """Sampling weight of each file or data set of prompt_dataset, relative to the others. If empty, all prompts form
    one set that is used up epoch by epoch."""
    prompt_split: str = "train"
    """Split to read, if prompt_dataset is a Hugging Face data set."""
    tasks: tuple[str, ...] = ()
    """Tasks to train and evaluate: `text` (text reasoning), `mmu` (image understanding), `t2i` (text to image),
    `r2i` (thinking, then text to image). Prompts of other tasks are left out; if empty, all tasks of the prompts are
    used."""
    input_key: str = ""
    """Column of the question. If empty, it is `prompt`, `question` or `problem`."""
    label_key: str = ""
    """Column of the gold answer. If empty, it is `label`, `answer` or `solution`. If the value contains `####`, the
    gold answer is the text after it."""
    max_samples: int = 0
    """Largest number of prompts to use, the first ones of the file and the same number of each task; 0 uses all
    prompts."""
    max_prompt_tokens: int = 512
    """Largest number of tokens of a prompt. A longer prompt is an error that is found before training starts."""
    prompt_template: PromptTemplate = "chat"
    """How a prompt becomes tokens. `chat` applies the tokenizer's chat template; `plain` puts the begin-of-text token
    before the text. `chat_one_newline` and `chat_two_newlines` are the formats that MMaDA and LLaDA were trained with,
    and ignore the tokenizer's template."""
    instruction: str = ""
    """Text that is put before every question, for example the request to think first."""

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
    tokenizer: InputPath = ""
    """Folder or Hub name of the image tokenizer for every task with images. If empty, it is the folder
    `image_tokenizer` of the model, if there is one."""
    resolution: int = 256
    """Height and width of every image, in pixels."""
    fit: Fit = "crop"
    """How an image becomes square: `crop` keeps the middle, `stretch` resizes both sides, `pad` adds white."""

    def __post_init__(self) -> None:
        positive("image.resolution", self.resolution)
        choice("image.fit", self.fit, get_args(Fit))
