"""Settings of prompts and images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from unigrpo.config.checks import choice, positive, require
from unigrpo.config.paths import InputPath, PathKind, SourcePaths

Task = Literal["text", "mmu", "t2i", "r2i"]
TASKS: tuple[str, ...] = get_args(Task)
"""MMaDA's task names: text reasoning, image understanding, text to image, and thinking before text to image."""
IMAGE_OUTPUT_TASKS = ("t2i", "r2i")
"""Tasks whose response has an image."""
RESPONSE_SPANS = {"text": ("thoughts",), "mmu": ("thoughts",), "t2i": ("image",), "r2i": ("thoughts", "image")}
"""Parts of the response of each task, in the order of generation."""
Fit = Literal["crop", "stretch", "pad"]
"""How an image becomes a square.

`crop` resizes the short side and keeps the middle; MMaDA uses it for photos. `stretch` resizes both sides and ignores
the aspect ratio; MMaDA uses it for charts, documents and visual questions. `pad` adds white at both ends of the short
side; MMaDA uses it for geometry.
"""
PromptTemplate = Literal["chat", "chat_one_newline", "chat_two_newlines", "plain"]


@dataclass(frozen=True, kw_only=True)
class PromptFileConfig:
    path: SourcePaths
    """File, folder or Hugging Face data set of the prompts: JSONL, JSON list, CSV, TSV or text lines (these also in
    .gz), parquet, Arrow, a folder of `save_to_disk`, a downloaded copy of a data set, or its name on the Hub.
    `:configuration` may follow the last two."""
    task: Literal["", Task] = ""
    """Task of the rows without a column `task`. If empty, it is `mmu` for a file whose rows have images, and otherwise
    `text`."""
    prompt_key: str = ""
    """Column of the question, the caption or the chat. If empty, it is found by the usual names."""
    label_key: str = ""
    """Column of the gold answer; a dot selects a field of an object, as in `reward_model.ground_truth`. If empty, it
    is found by the usual names."""
    image_key: str = ""
    """Column of the image: a path, an embedded image, base64, or a list of one of these. If empty, it is found by the
    usual names."""
    image_folder: InputPath = ""
    """Folder to which image paths are relative; if empty, the folder of the file."""
    instruction: str | None = None
    """Text that is put before every question of this file; it replaces data.instructions and data.instruction. For
    captions of `t2i`, only data.instructions is used."""
    weight: float | None = None
    """Sampling weight of this file, relative to the others. Set it for all files or for none; without weights, an
    epoch goes through the prompts of all files once."""
    split: str = ""
    """Split to read, if the path is a folder or a Hugging Face data set; if empty, data.prompt_split."""

    def __post_init__(self) -> None:
        require(bool(self.path), "data.prompt_dataset: a file without a path; name a file or a data set")
        choice("data.prompt_dataset: task", self.task, ("", *TASKS))
        if self.weight is not None:
            positive(f"data.prompt_dataset: weight of {self.path}", self.weight)


PromptFiles = Annotated[tuple[PromptFileConfig, ...] | str, PathKind.SOURCES]
"""Prompt files with settings of their own, or their paths joined by commas."""


def prompt_files(files: PromptFiles) -> tuple[PromptFileConfig, ...]:
    """Returns the prompt files of a setting.

    >>> tuple(file.path for file in prompt_files("a.jsonl, b.jsonl"))
    ('a.jsonl', 'b.jsonl')

    Raises:
        ConfigError: A name is empty, a file is named twice, or only some files have a weight.
    """
    if isinstance(files, str):
        names = [name.strip() for name in files.split(",")]
        require(
            "" not in names,
            f"{files!r}: there is an empty name before or after a comma; name a file there, or leave it out",
        )
        found = tuple(PromptFileConfig(path=name) for name in names)
    else:
        found = files
    paths = [file.path for file in found]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    require(not twice, f"the prompt files name {'; '.join(twice)} twice; give it a larger weight instead")
    weighted = sum(file.weight is not None for file in found)
    require(weighted in (0, len(found)), f"{weighted} of {len(found)} prompt files have a weight; give one to each")
    return found


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    prompt_dataset: PromptFiles = "examples/tiny/prompts/train.jsonl"
    """Prompts to train on: a file, a folder, the name of a Hugging Face data set, or several of these joined by
    commas; or a list of `{path, task, prompt_key, label_key, image_key, image_folder, instruction, weight, split}`, of
    which only the path is required. docs/data.md has the entries of many public data sets."""
    prompt_probs: tuple[float, ...] = ()
    """Sampling weight of each file or data set of prompt_dataset, relative to the others. If empty, an epoch goes
    through the prompts of all files once."""
    prompt_split: str = "train"
    """Split to read, if prompt_dataset is a folder or a Hugging Face data set."""
    tasks: tuple[str, ...] = ()
    """Tasks to train and evaluate: `text` (text reasoning), `mmu` (image understanding), `t2i` (text to image),
    `r2i` (thinking, then text to image). Prompts of other tasks are left out; if empty, all tasks of the prompts are
    used."""
    input_key: str = ""
    """Column of the question of all files that set no prompt_key. If empty, it is `prompt`, `question`, `problem`,
    `query`, `context_messages`, `messages`, `conversations`, `caption`, `text`, `message`, `question_stem`,
    `prompts` or `instruction`, in capital letters or not."""
    label_key: str = ""
    """Column of the gold answer of all files that set no label_key. If empty, it is found by the usual names, such as
    `label`, `answer`, `reward_model.ground_truth` and `solution`; docs/data.md has all of them. The gold answer is the
    text after `####`, in answer tags, in the last box or after `Answer:`, if the value has one of these, and otherwise
    the whole value."""
    max_samples: int = 0
    """Largest number of prompts to use; 0 uses all prompts. The first prompts of the file are used, the same number of
    each task."""
    max_bad_fraction: float = 0.01
    """Largest allowed fraction of unusable rows of a prompt file, such as broken lines and images, prompts that are
    too long, and gold answers that no answer can match. Such rows are skipped, logged and counted before training
    starts. A larger fraction is an error."""
    max_prompt_tokens: int = 512
    """Largest number of tokens of a prompt. A row with a longer prompt cannot be used; see data.max_bad_fraction."""
    prompt_template: PromptTemplate = "chat"
    """How a prompt becomes tokens. `chat` applies the tokenizer's chat template; `plain` puts the begin-of-text token
    before the text. `chat_one_newline` and `chat_two_newlines` ignore the tokenizer's template and use the formats
    with which MMaDA and LLaDA were trained."""
    prompt_templates: dict[str, PromptTemplate] = field(default_factory=dict[str, PromptTemplate])
    """Templates that differ by task, under the keys `text`, `mmu` and `r2i`. A task without an entry uses
    data.prompt_template. Captions of `t2i` never have a template."""
    instruction: str = ""
    """Text that is put before every question of `text`, `mmu` and `r2i`, for example a request to think first. If it
    contains `{prompt}`, the question replaces this placeholder."""
    instructions: dict[str, str] = field(default_factory=dict[str, str])
    """Instructions that differ by task, under the keys `text`, `mmu`, `t2i` and `r2i`. Without an entry, `t2i` has no
    instruction and the other tasks use data.instruction. The instruction of a prompt file replaces both, except for
    `t2i`."""

    def __post_init__(self) -> None:
        require(bool(self.prompt_dataset), "data.prompt_dataset is empty; name a JSONL file or a data set")
        files = prompt_files(self.prompt_dataset)
        require(
            len(self.prompt_probs) in (0, len(files)),
            f"data.prompt_probs has {len(self.prompt_probs)} numbers for {len(files)} files; give one to each",
        )
        require(
            not self.prompt_probs or all(file.weight is None for file in files),
            "data.prompt_probs and the weight of a prompt file are the same setting; use one of them",
        )
        fraction = self.max_bad_fraction
        require(0 <= fraction < 1, f"data.max_bad_fraction is {fraction}; it must be from 0 to below 1")
        for weight in self.prompt_probs:
            positive("data.prompt_probs: a weight", weight)
        for task in self.tasks:
            choice("data.tasks", task, TASKS)
        require(self.max_samples >= 0, f"data.max_samples is {self.max_samples}; use 0 for all prompts")
        positive("data.max_prompt_tokens", self.max_prompt_tokens)
        choice("data.prompt_template", self.prompt_template, get_args(PromptTemplate))
        for task, template in self.prompt_templates.items():
            choice("data.prompt_templates", task, tuple(task for task in TASKS if task != "t2i"))
            choice(f"data.prompt_templates.{task}", template, get_args(PromptTemplate))
        for task in self.instructions:
            choice("data.instructions", task, TASKS)

    def instruction_of(self, task: str) -> str:
        """Returns the instruction of a task, for prompts whose file has no instruction of its own.

        >>> data = DataConfig(instruction="Think. ", instructions={"r2i": "Describe. "})
        >>> data.instruction_of("mmu"), data.instruction_of("r2i"), data.instruction_of("t2i")
        ('Think. ', 'Describe. ', '')
        """
        return self.instructions.get(task, "" if task == "t2i" else self.instruction)

    def template_of(self, task: str) -> PromptTemplate:
        """Returns the template of a task."""
        return self.prompt_templates.get(task, self.prompt_template)


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    tokenizer: InputPath = ""
    """Folder or Hub name of the image tokenizer for every task with images. If empty, it is the folder
    `image_tokenizer` of the model."""
    resolution: int = 256
    """Height and width of every image, in pixels."""
    fit: Fit = "crop"
    """How an image becomes square: `crop` cuts off the ends of the long side, `stretch` resizes both sides, `pad` adds
    white."""

    def __post_init__(self) -> None:
        positive("image.resolution", self.resolution)
        choice("image.fit", self.fit, get_args(Fit))
