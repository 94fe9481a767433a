"""Prompt files: prompts from tables of every kind, with file and line in every error."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unigrpo import DataError
from unigrpo.config import PromptFileConfig, PromptFiles, prompt_files
from unigrpo.data.bad_samples import BadRows, BadSample
from unigrpo.data.choices import lack_choices
from unigrpo.data.prompt_rows import PromptReader
from unigrpo.data.tables import Table, open_table
from unigrpo.records import Prompt

logger = logging.getLogger(__name__)


def load_prompts(
    dataset: PromptFiles,
    *,
    split: str = "train",
    input_key: str = "",
    label_key: str = "",
    default_task: str = "",
    tasks: Sequence[str] = (),
    max_samples: int = 0,
    bad: BadRows | None = None,
) -> list[Prompt]:
    """Returns all prompts of a data set, in file order.

    Args:
        dataset: Files as PromptFileConfig.path names them, joined by commas or with their own settings. Paths of
            images are relative to the file.
        split: Split of files without their own split.
        input_key: Column of the question of files without a `prompt_key`.
        label_key: Column of the gold answer of files without a `label_key`.
        default_task: Task of files without their own task; if empty, `mmu` for rows with images and `text` for others.
        tasks: Tasks whose prompts are used; empty uses all.
        max_samples: Largest number of prompts, the same number of each task; 0 uses all.
        bad: Counts the rows that are not prompts.

    Raises:
        ValueError: No such file, columns that are missing, too many rows that are not prompts, or no prompt at all.
    """
    bad = BadRows() if bad is None else bad
    files = [_with_defaults(file, split, input_key, label_key, default_task) for file in prompt_files(dataset)]
    prompts: list[Prompt] = []
    for file in files:
        same_name = [other for other in files if Path(other.path).name == Path(file.path).name]
        prefix = f"{Path(file.path).parent.name}/" if len(same_name) > 1 else ""
        prompts += _read(file, prefix, bad)
    bad.check()
    if not prompts:
        raise DataError(f"{', '.join(file.path for file in files)}: holds no prompt")
    kept = [prompt for prompt in prompts if not tasks or prompt.task in tasks]
    if not kept:
        found = sorted({prompt.task for prompt in prompts})
        names = ", ".join(file.path for file in files)
        raise DataError(f"{names}: no prompt of the tasks {list(tasks)}; its prompts have {found}")
    return _first(kept, max_samples) if max_samples else kept


def _with_defaults(file: PromptFileConfig, split: str, input_key: str, label_key: str, task: str) -> PromptFileConfig:
    return replace(
        file,
        split=file.split or split,
        prompt_key=file.prompt_key or input_key,
        label_key=file.label_key or label_key,
        task=file.task or task,  # type: ignore[arg-type]
    )


def _read(file: PromptFileConfig, prefix: str, bad: BadRows) -> list[Prompt]:
    """Returns the prompts of one file and logs the meaning of its columns."""
    table = open_table(file.path, file.split)
    bad.add_rows(file.path, len(table))
    prompts: list[Prompt] = []
    try:
        reader = PromptReader(table, file, file.split)
    except BadSample:
        for index in range(len(table)):
            _count_unreadable(table, index, file, prefix, bad)
        return []
    for index in range(len(table)):
        where = prefix + table.key(index)
        try:
            prompts.append(reader.read(index, where))
        except BadSample as error:
            message = str(error)
            bad.add(file.path, error.reason, message if message.startswith(prefix) else prefix + message)
    tasks = Counter(prompt.task for prompt in prompts)
    counted = ", ".join(f"{number} {task}" for task, number in sorted(tasks.items()))
    logger.info("%s: %d rows, prompts: %s; %s", file.path, len(table), counted or "none", reader.describe())
    if not file.task and tasks["mmu"] and reader.columns.question.lower() == "caption" and not reader.columns.gold:
        logger.warning(
            "%s: asks its captions as questions about their images; set task: t2i for this file, or give it questions "
            "(`unigrpo prepare describe` does)",
            file.path,
        )
    if not file.task and tasks["text"] and all(prompt.label is None for prompt in prompts if prompt.task == "text"):
        logger.warning(
            "%s: its text prompts have no gold answer; set task: t2i for this file if they are captions",
            file.path,
        )
    if lack_choices([p.text for p in prompts], [p.label for p in prompts if p.label is not None]):
        logger.warning(
            "%s: its golds are the letters of choices, and no question shows choices; write them into the question or "
            "into a column `options`",
            file.path,
        )
    return prompts


def _count_unreadable(table: Table, index: int, file: PromptFileConfig, prefix: str, bad: BadRows) -> None:
    try:
        table.row(index)
    except BadSample as error:
        bad.add(file.path, error.reason, prefix + str(error))


def _first(prompts: list[Prompt], number: int) -> list[Prompt]:
    """Returns the first prompts in order, the same number of every task if there are enough."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int]] = []
    for place, prompt in enumerate(prompts):
        turns.append((seen[prompt.task], place))
        seen[prompt.task] += 1
    return [prompts[place] for place in sorted(place for _, place in sorted(turns)[:number])]
