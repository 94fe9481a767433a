"""Prompts from rows of public data sets: question, image and gold answer of a row."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from unigrpo import DataError
from unigrpo.config import TASKS, PromptFileConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.choices import choice_names, choice_texts, letter_of, list_in, with_choices
from unigrpo.data.embedded_images import embedded_name, images_in
from unigrpo.data.golds import gold_answer
from unigrpo.data.prompt_chats import chat_in, read_prompt_chat
from unigrpo.data.prompt_columns import (
    DECODED_IMAGE,
    IMAGE_KEYS,
    NUMBER_KEYS,
    PUZZLE_KEY,
    SOLUTION_KEY,
    TARGET_KEY,
    cell_of,
    find_columns,
    has_column,
)
from unigrpo.data.puzzles import countdown_label, countdown_question, sudoku_label, sudoku_question
from unigrpo.data.tables import Row, Table, without_hub
from unigrpo.data.text import check_value
from unigrpo.records import Prompt

INSTRUCTION_KEY, INSTRUCTED_KEY = "instruction", "input"
"""Columns of the request and its input in Alpaca's format."""
IMAGE_MARK = re.compile(r"[ \t]*<image(?:[ _]?\d+)?>[ \t]*\n?")
"""Position of an image in a text; the layout has its own place for it."""
LIST_OF_TEXTS = re.compile(r"\[\s*([\"']).*\1\s*\]", re.DOTALL)


class PromptReader:
    """Makes prompts from the rows of one table."""

    def __init__(self, table: Table, file: PromptFileConfig, split: str) -> None:
        """Finds the columns.

        Raises:
            ValueError: A column is missing, see :func:`find_columns`.
            BadSample: None of the first rows can be read.
        """
        self.table, self.file, self._split = table, file, split
        self.columns = find_columns(table, file)
        self._image_columns = dict.fromkeys(self.columns.images)
        self._folder = Path(file.image_folder).expanduser() if file.image_folder else table.folder

    def describe(self) -> str:
        """Returns one line for the log, with the image columns of the rows that were read."""
        return replace(self.columns, images=tuple(self._image_columns)).describe()

    def read(self, index: int, where: str) -> Prompt:
        """Returns the prompt of a row.

        Args:
            index: Number of the row.
            where: File and line.

        Raises:
            BadSample: The row is not a prompt.
        """
        row, columns = self.table.row(index), self.columns
        task, names_task = self._task(row, where)
        turns, answer = self._turns(row, where)
        if task == "mmu":
            turns = tuple((role, without_image_marks(content)) for role, content in turns)
        text = with_choices(self._with_context(row, turns[-1][1], task), choice_texts(columns.choices(row)))
        if not text.strip():
            raise BadSample("no question", f"{where}: {columns.question!r} must be a text that is not empty")
        is_chat = not isinstance(chat_in(row.get(columns.question)), str) and bool(columns.question)
        label = self._label(row, answer, turns[-1][1], where)
        # Texts that were JSON inside of a text were not checked with the row.
        check_value([text, [content for _, content in turns], label], where)
        used = {columns.question, *columns.images, *(["task"] if names_task else [])}
        return Prompt(
            id=where,
            text=text,
            label=label,
            task=task,
            images=self._images(row, index, task, where),
            metadata={key: value for key, value in row.items() if key not in used},
            dataset=self.file.path,
            messages=tuple({"role": role, "content": content} for role, content in (*turns[:-1], ("user", text)))
            if is_chat
            else (),
            instruction=self.file.instruction,
        )

    @functools.cached_property
    def _table_path(self) -> str:
        """Path of the table for the processes that read its images."""
        return without_hub(self.file.path)

    def _with_context(self, row: Row, question: str, task: str) -> str:
        """Returns the question with the texts to which it refers before it and its input after it."""
        if task not in ("text", "mmu") or not isinstance(chat_in(row.get(self.columns.question)), str):
            return question
        texts = [cell.strip() for name in self.columns.contexts if isinstance(cell := row.get(name), str)]
        texts = [text for text in texts if text and text not in question]
        if task == "mmu":
            texts = [without_image_marks(text) for text in texts]
        about = row.get(INSTRUCTED_KEY) if self.columns.question.lower() == INSTRUCTION_KEY else None
        return "\n".join([*texts, question, *([about.strip()] if isinstance(about, str) and about.strip() else [])])

    def _task(self, row: Row, where: str) -> tuple[str, bool]:
        """Returns the task, and whether it comes from the row."""
        asked = row.get("task")
        if asked is None or (self.columns.is_task_given and asked not in TASKS):
            return self.columns.task, False
        if asked not in TASKS:
            raise BadSample(
                "unknown task", f"{where}: no task {asked!r}; choose one of {list(TASKS)}, or set task of this file"
            )
        return str(asked), True

    def _turns(self, row: Row, where: str) -> tuple[tuple[tuple[str, str], ...], str | None]:
        """Returns the turns up to the question, and the answer at the end of a chat."""
        columns = self.columns
        if columns.puzzle == "countdown":
            return (("user", countdown_question(*_countdown(row, where))),), None
        if columns.puzzle == "sudoku":
            return (("user", sudoku_question(_digits(row, PUZZLE_KEY, where))),), None
        if not has_column(row, columns.question):
            raise BadSample(
                "no question", f"{where}: no column for the question ({columns.question!r}); found keys {sorted(row)}"
            )
        question = chat_in(cell_of(row, columns.question))
        if isinstance(question, (list, tuple)) and question:
            chat = read_prompt_chat(question, where)
            return chat.turns, chat.answer
        if not isinstance(question, str) or not question.strip():
            raise BadSample(
                "no question",
                f"{where}: {columns.question!r} must be a text that is not empty; found {question!r:.60}",
            )
        return (("user", question),), None

    def _label(self, row: Row, answer: str | None, question: str, where: str) -> str | None:
        columns = self.columns
        if columns.puzzle == "countdown":
            return countdown_label(*_countdown(row, where))
        if columns.puzzle == "sudoku":
            return sudoku_label(_digits(row, PUZZLE_KEY, where), _digits(row, SOLUTION_KEY, where))
        gold = cell_of(row, columns.gold) if columns.gold else answer
        gold = _listed(gold)
        if isinstance(gold, (list, tuple)) and len(gold) == 1:
            gold = gold[0]
        if gold is None:
            return None
        if isinstance(gold, Mapping):
            return json.dumps(gold, ensure_ascii=False, default=str)
        if isinstance(gold, bool):
            raise BadSample(
                "no gold", f"{where}: {columns.gold!r} is {gold}; write the answer, such as yes or no, into the file"
            )
        if not isinstance(gold, (str, int, float)):
            raise BadSample("no gold", f"{where}: {columns.gold!r} must be a text or a number; found {gold!r:.60}")
        if isinstance(gold, float) and not math.isfinite(gold):
            raise BadSample("no gold", f"{where}: {columns.gold!r} is {gold}, which no answer can equal")
        options = columns.choices(row)
        try:
            names = (choice_texts(options), choice_names(options))
            return letter_of(gold_answer(str(gold)), question, *names, columns.first_choice)
        except DataError as error:
            raise BadSample("no gold", f"{where}: {columns.gold!r}: {error}") from error

    def _images(self, row: Row, index: int, task: str, where: str) -> tuple[str, ...]:
        """Returns the names of the images of a row: one for `mmu`, none for the other tasks."""
        columns = self.columns
        if task != "mmu" and columns.is_task_given and "task" not in row:
            return ()
        names: list[str] = []
        # Rows of a mixed file may differ: the first ones, which decided the columns, may all be texts.
        is_named = bool(self.file.image_key) or any(name.lower() == DECODED_IMAGE for name in columns.images)
        usual = () if is_named else (key for key in IMAGE_KEYS if key in row)
        for column in dict.fromkeys((*columns.images, *usual, columns.question)):
            cell = row.get(column)
            if column == columns.question:
                cell = chat_in(cell)
                if isinstance(cell, str):
                    continue
            for position, image in enumerate(images_in(cell, where)):
                self._image_columns[column] = None
                if isinstance(image, str):
                    names.append(str(self._folder / image))
                else:
                    place = (self._table_path, self._split, index, column, position)
                    names.append(embedded_name(*place, shown=self.file.path))
        if task != "mmu" and names:
            raise BadSample(
                "image not read", f"{where}: task {task!r} reads no image, only 'mmu' does; found {names[0][-80:]!r}"
            )
        if task == "mmu" and not names:
            raise BadSample("missing image", f"{where}: task 'mmu' needs \"image\"; found keys {sorted(row)}")
        if len(names) > 1:
            raise BadSample("several images", f"{where}: task 'mmu' reads one image; found {len(names)}")
        return tuple(names)


def _listed(gold: object) -> object:
    """Returns the list of a gold that is the text of a list of texts, as in Skywork-OR1; else the gold."""
    if not isinstance(gold, str) or not LIST_OF_TEXTS.fullmatch(gold.strip()):
        return gold
    return list_in(gold) or gold


def without_image_marks(text: str) -> str:
    """Returns a text without the placeholders of images.

    >>> without_image_marks("<image>How many?"), without_image_marks("In <image 1>, compare <image> with it.")
    ('How many?', 'In, compare with it.')
    >>> without_image_marks("Which? <image 1>\\nA. red")
    'Which?\\nA. red'
    """
    return IMAGE_MARK.sub(_between_words, text).strip()


def _between_words(mark: re.Match[str]) -> str:
    """Returns the replacement of a placeholder with the white space around it."""
    if mark[0].endswith("\n"):
        return "\n" if mark.string[mark.start() - 1 : mark.start()] not in ("", "\n") else ""
    is_spaced, behind = mark[0].strip() != mark[0], mark.string[mark.end() : mark.end() + 1]
    return " " if is_spaced and mark.start() and (behind.isalnum() or behind in "([$\"'") else ""


def _countdown(row: Row, where: str) -> tuple[list[int], int]:
    lower = {str(key).lower(): value for key, value in row.items()}
    numbers = next((lower[key] for key in NUMBER_KEYS if key in lower), None)
    target = lower.get(TARGET_KEY)
    if not isinstance(numbers, (list, tuple)) or len(numbers) < 2 or not _are_integers([*numbers, target]):
        raise BadSample("no puzzle", f"{where}: expected numbers and a target, found {numbers!r:.60} and {target!r}")
    return list(numbers), int(str(target))


def _are_integers(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _digits(row: Row, key: str, where: str) -> str:
    """Returns the cells of a Sudoku."""
    value = next((value for name, value in row.items() if str(name).lower() == key), None)
    digits = re.sub(r"[\s.]", lambda found: "0" if found.group() == "." else "", str(value))
    if len(digits) not in (16, 81) or not digits.isdigit():
        raise BadSample("no puzzle", f"{where}: expected 16 or 81 digits in {key!r}, found {value!r:.100}")
    return digits
