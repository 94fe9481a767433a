"""Prompt files: JSONL files and Hugging Face data sets become prompts, with file and line in every error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from unigrpo.config import TASKS
from unigrpo.records import Prompt

INPUT_KEYS = ("prompt", "question", "problem")
LABEL_KEYS = ("label", "answer", "solution")
IMAGE_KEYS = ("image", "images")
GOLD_MARK = "####"
"""GSM8K puts the gold answer behind the last of these."""


MAX_SHOWN = 5
"""Problems that one error lists."""


def load_prompts(
    dataset: str,
    *,
    split: str = "train",
    input_key: str = "",
    label_key: str = "",
    default_task: str = "text",
    tasks: Sequence[str] = (),
    max_samples: int = 0,
) -> list[Prompt]:
    """All prompts of a data set, in file order.

    Args:
        dataset: A JSONL file, several joined by commas, or the name of a Hugging Face data set. Paths of images are
            relative to the file.
        split: Split of a Hugging Face data set.
        input_key: Column of the question; empty finds one of :data:`INPUT_KEYS`.
        label_key: Column of the gold; empty finds one of :data:`LABEL_KEYS`.
        default_task: Task of a line that names none.
        tasks: Only prompts of these; empty takes all.
        max_samples: Only the first so many, of each task alike; 0 for all.

    Raises:
        ValueError: No such file, lines that are no prompts, or no prompt at all.
    """
    form = _Form(input_key=input_key, label_key=label_key, default_task=default_task)
    prompts: list[Prompt] = []
    problems: list[str] = []
    for name in dataset_names(dataset):
        for where, folder, line in _lines(name, split, dataset):
            try:
                row = _row(where, line) if isinstance(line, bytes) else line
                if row is not None:
                    prompts.append(replace(_prompt(where, folder, row, form), dataset=name))
            except ValueError as error:
                problems.append(str(error))
    raise_problems(problems)
    if not prompts:
        raise ValueError(f"{dataset}: holds no prompt; every line must be a JSON object with one of {INPUT_KEYS}")
    kept = [prompt for prompt in prompts if not tasks or prompt.task in tasks]
    if not kept:
        found = sorted({prompt.task for prompt in prompts})
        raise ValueError(f"{dataset}: no prompt of the tasks {list(tasks)}; its prompts have {found}")
    return _first(kept, max_samples) if max_samples else kept


def raise_problems(problems: Sequence[str]) -> None:
    """Raises one ValueError for all of them, if there are any; it lists the first ones."""
    if problems:
        more = f"\n... and {len(problems) - MAX_SHOWN} more" if len(problems) > MAX_SHOWN else ""
        raise ValueError("\n".join(problems[:MAX_SHOWN]) + more)


def _first(prompts: list[Prompt], number: int) -> list[Prompt]:
    """The first so many, in order; every task has as many of them as there are or as any other."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int]] = []
    for place, prompt in enumerate(prompts):
        turns.append((seen[prompt.task], place))
        seen[prompt.task] += 1
    return [prompts[place] for place in sorted(place for _, place in sorted(turns)[:number])]


def _lines(name: str, split: str, dataset: str) -> Iterator[tuple[str, Path, bytes | Mapping[str, Any]]]:
    """Place, folder that relative image paths start from, and content of each line or row."""
    path = Path(name).expanduser()
    if path.is_file():
        others = [other for other in dataset_names(dataset) if Path(other).name == path.name]
        shown = f"{path.parent.name}/{path.name}" if len(others) > 1 else path.name
        with path.open("rb") as lines:
            yield from ((f"{shown}:{number}", path.parent, line) for number, line in enumerate(lines, start=1))
    elif not path.is_dir() and (path.suffix in (".jsonl", ".json") or name.startswith((".", "/", "~"))):
        raise ValueError(f"{name}: no such file (looked in {Path.cwd()}); give the path of a JSONL file")
    else:
        yield from ((where, Path(), row) for where, row in _hub_rows(name, split))


def _row(where: str, line: bytes) -> Mapping[str, Any] | None:
    """The object of a line; None for an empty one."""
    try:
        text = line.decode("utf-8-sig")  # a mark of the byte order, as some editors write it, is no text
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    if not text.strip():
        return None
    try:
        row = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno}): {text[:60]!r}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, found {type(row).__name__}: {text[:60]!r}")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, number in Counter(key for key, _ in pairs).items() if number > 1]
    if twice:
        raise ValueError(f"key {twice[0]!r} stands there more than once; keep one")
    return dict(pairs)


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


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What a line that says nothing else means; see :func:`load_prompts`."""

    input_key: str
    label_key: str
    default_task: str


def _prompt(where: str, folder: Path, row: Mapping[str, Any], form: _Form) -> Prompt:
    question_key = _column(where, row, form.input_key, INPUT_KEYS, "data.input_key")
    gold_key = form.label_key or next((k for k in LABEL_KEYS if k in row), "")
    if form.label_key and form.label_key not in row:
        raise ValueError(f"{where}: no column {form.label_key!r} (data.label_key); found {sorted(row)}")
    question, gold = row[question_key], row.get(gold_key)
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where}: {question_key!r} must be a text that is not empty; found {question!r}")
    if gold is not None and (isinstance(gold, bool) or not isinstance(gold, (str, int, float))):
        raise ValueError(f"{where}: {gold_key!r} must be a text or a number; found {gold!r}")
    task = row.get("task", form.default_task)
    if task not in TASKS:
        raise ValueError(f"{where}: no task {task!r}; choose one of {list(TASKS)}")
    used = {question_key, gold_key, "task", *IMAGE_KEYS}
    return Prompt(
        id=where,
        text=question,
        label=None if gold is None else gold_answer(str(gold)),
        task=task,
        images=tuple(str(folder / image) for image in _images(where, row, task)),
        metadata={k: v for k, v in row.items() if k not in used},
    )


def _images(where: str, row: Mapping[str, Any], task: str) -> tuple[str, ...]:
    """Paths of a row: one for `mmu`, none for the other tasks."""
    given = [row[key] for key in IMAGE_KEYS if row.get(key)]
    if task != "mmu":
        if given:
            raise ValueError(f"{where}: task {task!r} reads no image, only 'mmu' does; found {given[0]!r}")
        return ()
    if not given:
        raise ValueError(f"{where}: task 'mmu' needs \"image\"; found keys {sorted(row)}")
    images = [image for value in given for image in (value if isinstance(value, list) else [value])]
    if len(images) != 1:
        raise ValueError(f"{where}: task 'mmu' reads one image; found {len(images)}")
    if not isinstance(images[0], str):
        raise ValueError(f'{where}: "image" must be the path of a file; found {type(images[0]).__name__}')
    return (images[0],)


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


def dataset_names(dataset: str) -> list[str]:
    """The files and data sets of a setting, which commas part.

    >>> dataset_names("a.jsonl, b.jsonl")
    ['a.jsonl', 'b.jsonl']

    Raises:
        ValueError: A name is empty, or stands there twice.
    """
    names = [name.strip() for name in dataset.split(",")]
    if "" in names:
        raise ValueError(f"{dataset!r}: nothing stands before or behind a comma; name a file there, or leave it out")
    if len(set(names)) < len(names):
        raise ValueError(f"{dataset!r} names one of them twice; give it a larger share by data.prompt_probs")
    return names
