"""Prompt files: JSONL files and Hugging Face data sets become prompts, with file and line in every error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch

from unigrpo.algorithm.masking import keyed_generator
from unigrpo.config import TASKS
from unigrpo.data.corpora.order import Mixture
from unigrpo.records import Prompt, SampleRequest

INPUT_KEYS = ("prompt", "question", "problem")
LABEL_KEYS = ("label", "answer", "solution")
GOLD_MARK = "####"
"""GSM8K puts the gold answer behind the last of these."""


def load_prompts(
    dataset: str, *, split: str = "train", input_key: str = "", label_key: str = "", max_samples: int = 0
) -> list[Prompt]:
    """All prompts of a data set, in file order.

    Args:
        dataset: A JSONL file, several joined by commas, or the name of a Hugging Face data set. Paths of images are
            relative to the file.
        split: Split of a Hugging Face data set.
        input_key: Column of the question; empty finds one of :data:`INPUT_KEYS`.
        label_key: Column of the gold; empty finds one of :data:`LABEL_KEYS`.
        max_samples: Only the first so many; 0 for all.

    Raises:
        ValueError: No such file, a line that is no JSON object, a missing column, or no prompt at all.
    """
    prompts: list[Prompt] = []
    for name in dataset_names(dataset):
        for where, folder, row in _rows(name, split):
            if max_samples and len(prompts) == max_samples:
                break
            prompts.append(replace(_prompt(where, folder, row, input_key, label_key), dataset=name))
    if not prompts:
        raise ValueError(f"{dataset}: holds no prompt; every line must be a JSON object with one of {INPUT_KEYS}")
    return prompts


def _rows(name: str, split: str) -> Iterator[tuple[str, Path, Mapping[str, Any]]]:
    """Place, folder that relative image paths start from, and content of each row."""
    path = Path(name).expanduser()
    if path.is_file():
        yield from ((where, path.parent, row) for where, row in _json_lines(path))
    elif path.suffix in (".jsonl", ".json") or name.startswith((".", "/", "~")):
        raise ValueError(f"{name}: no such file (looked in {Path.cwd()}); give the path of a JSONL file")
    else:
        yield from ((where, Path(), row) for where, row in _hub_rows(name, split))


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, start=1):
            where = f"{path.name}:{number}"
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from error
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno}): {line[:60]!r}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: expected a JSON object, found {type(row).__name__}: {line[:60]!r}")
            yield where, row


def _hub_rows(name: str, split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # "openai/gsm8k:main" names the configuration "main" of the data set.
    path, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(path, configuration or None, split=split)
    except Exception as error:  # every backend raises its own kind; all mean the same to the user
        raise ValueError(
            f"{name}: neither a file here ({Path.cwd()}) nor a data set that could be loaded (split {split!r}): "
            f"{type(error).__name__}: {error}"
        ) from error
    for number, row in enumerate(rows):
        yield f"{name}[{split}]:{number}", row  # type: ignore[misc]


def _prompt(where: str, folder: Path, row: Mapping[str, Any], input_key: str, label_key: str) -> Prompt:
    question_key = _column(where, row, input_key, INPUT_KEYS, "data.input_key")
    gold_key = label_key if label_key else next((k for k in LABEL_KEYS if k in row), "")
    if label_key and label_key not in row:
        raise ValueError(f"{where}: no column {label_key!r} (data.label_key); found {sorted(row)}")
    question, gold = row[question_key], row.get(gold_key)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where}: {question_key!r} must be a text that is not empty; found {question!r}")
    task = row.get("task", "text")
    if task not in TASKS:
        raise ValueError(f"{where}: no task {task!r}; choose one of {list(TASKS)}")
    images = row.get("images", row.get("image", ()))
    images = (images,) if isinstance(images, str) else tuple(images or ())
    if task == "mmu" and not images:
        raise ValueError(f"{where}: task 'mmu' needs \"image\"; found keys {sorted(row)}")
    used = {question_key, gold_key, "task", "image", "images"}
    return Prompt(
        id=where,
        text=question,
        label=None if gold is None else gold_answer(str(gold)),
        task=task,
        images=tuple(str(folder / image) for image in images),
        metadata={k: v for k, v in row.items() if k not in used},
    )


def _column(where: str, row: Mapping[str, Any], asked: str, usual: tuple[str, ...], setting: str) -> str:
    for key in (asked,) if asked else usual:
        if key in row:
            return key
    expected = repr(asked) if asked else f"one of {list(usual)}"
    raise ValueError(f"{where}: no column for the question ({setting}: {expected}); found keys {sorted(row)}")


def gold_answer(label: str) -> str:
    """The gold of a label: what stands behind the last ``####``, else the whole.

    >>> gold_answer("48/2 = 24 clips. #### 24")
    '24'
    """
    return label.rpartition(GOLD_MARK)[2].strip()


class PromptStream:
    """The prompts of every step: shuffled epochs, one behind the other, as a function of the step alone.

    Resuming at a step therefore needs no saved position.
    """

    def __init__(
        self, prompts: list[Prompt], batch_size: int, num_samples: int, seed: int, probs: Mapping[str, float] = {}
    ) -> None:
        """Args:
        prompts: All prompts.
        batch_size: Prompts of one step.
        num_samples: Samples of each prompt.
        seed: Seed of the shuffles.
        probs: Relative share of each data set, which then has epochs of its own; without, all are one.

        Raises:
            ValueError: A data set that has a share has no prompt.
        """
        self._mixture = Mixture(probs, seed) if probs else None
        self._prompts = {name: [p for p in prompts if p.dataset == name] for name in probs} or {"": prompts}
        empty = [name for name, found in self._prompts.items() if not found]
        if empty:
            raise ValueError(f"data.prompt_probs gives {empty[0]} a share, but it has no prompt that is trained on")
        self._batch_size = batch_size
        self._num_samples = num_samples
        self._seed = seed
        self._orders: dict[str, tuple[int, list[int]]] = {}

    def requests(self, step: int) -> list[SampleRequest]:
        """The samples to draw in a step; those of one prompt stand together."""
        first = step * self._batch_size
        batch = [self._at(position) for position in range(first, first + self._batch_size)]
        return expand(batch, self._num_samples, step)

    def _at(self, position: int) -> Prompt:
        name, place = self._mixture.source_at(position) if self._mixture else ("", position)
        prompts = self._prompts[name]
        epoch, index = divmod(place, len(prompts))
        if self._orders.get(name, (-1, []))[0] != epoch:
            generator = keyed_generator(self._seed, "prompt order", *([name] if name else []), epoch)
            self._orders[name] = (epoch, torch.randperm(len(prompts), generator=generator).tolist())
        return prompts[self._orders[name][1][index]]


def dataset_names(dataset: str) -> list[str]:
    """The files and data sets of a setting, which commas part.

    >>> dataset_names("a.jsonl, b.jsonl")
    ['a.jsonl', 'b.jsonl']
    """
    return [name.strip() for name in dataset.split(",")]


def dealt(requests: list[SampleRequest], num_ranks: int) -> list[SampleRequest]:
    """The requests in an order whose equal contiguous shares hold as much of each task, groups kept together.

    An image costs many times a text: a rank with more of them than the others would let those wait.
    """
    if num_ranks == 1:
        return requests
    groups: dict[int, list[SampleRequest]] = {}
    for request in requests:
        groups.setdefault(request.group_id, []).append(request)
    by_task = sorted(groups.values(), key=lambda group: group[0].prompt.task)
    return [request for rank in range(num_ranks) for group in by_task[rank::num_ranks] for request in group]


def expand(prompts: list[Prompt], num_samples: int, step: int) -> list[SampleRequest]:
    """``num_samples`` requests for each prompt; those of one prompt stand together."""
    return [
        SampleRequest(prompt=prompt, group_id=group, sample_id=group * num_samples + sample, step=step)
        for group, prompt in enumerate(prompts)
        for sample in range(num_samples)
    ]
