"""Prompts from rows of public data sets: the meaning of each column, and question, image and gold answer of a row."""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unigrpo import DataError
from unigrpo.config import TASKS, PromptFileConfig
from unigrpo.data.bad_samples import BadSample, shown_columns
from unigrpo.data.choices import (
    LETTERS,
    choice_columns,
    choice_names,
    choice_texts,
    first_number,
    letter_of,
    list_in,
    with_choices,
)
from unigrpo.data.embedded_images import embedded_name, images_in
from unigrpo.data.golds import gold_answer
from unigrpo.data.prompt_chats import chat_in, read_prompt_chat
from unigrpo.data.puzzles import countdown_label, countdown_question, sudoku_label, sudoku_question
from unigrpo.data.tables import Row, Table, previewed_rows, without_hub
from unigrpo.data.text import check_value
from unigrpo.records import Prompt

logger = logging.getLogger(__name__)
INPUT_KEYS = (
    "prompt", "question", "problem", "query", "context_messages", "messages", "conversations", "caption", "text",
    "message", "question_stem", "prompts", "instruction",
)  # fmt: skip
LABEL_KEYS = (
    "label", "answer", "final_answer", "ground_truth", "gold", "reward_model.ground_truth", "expected_answer",
    "correct_answer", "answerkey", "gt_answer", "correct", "correct_option", "correct_choice_idx", "cop", "solution",
    "ground_truth_answer", "response", "output",
)  # fmt: skip
IMAGE_KEYS = ("image", "images", "image_path", "img_path", "img", "image_urls")
DECODED_IMAGE = "decoded_image"
"""Column with the image if another column has its path, as in MathVista."""
NUMBERED_IMAGE = re.compile(r"image_?\d+")
"""Columns of images in MMMU."""
OPTION_KEYS = ("options", "choices", "option", "answer_choices", "endings")
CONTEXT_KEYS = ("context", "passage", "article", "body")
"""Columns of a text to which the question refers."""
HINT_KEY = "hint"
"""Column of hints, which is used only with choices, as in ScienceQA; with other questions it may reveal the answer."""
INSTRUCTION_KEY, INSTRUCTED_KEY = "instruction", "input"
"""Columns of the request and its input in Alpaca's format."""
NUMBER_KEYS, TARGET_KEY = ("nums", "numbers"), "target"
PUZZLE_KEY, SOLUTION_KEY = "puzzle", "solution"
IMAGE_MARK = re.compile(r"[ \t]*<image(?:[ _]?\d+)?>[ \t]*\n?")
"""Position of an image in a text; the layout has its own place for it."""
LIST_OF_TEXTS = re.compile(r"\[\s*([\"']).*\1\s*\]", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class PromptColumns:
    """Meaning of the columns of a table."""

    question: str
    """Column of the question or chat; empty for a puzzle that consists of numbers."""
    gold: str
    """Column of the gold answer, with dots between nested names; empty if there is none."""
    images: tuple[str, ...]
    options: str
    """Column of the choices of a question; empty if there is none."""
    lettered: tuple[str, ...]
    """Columns of one choice each, if no column has all of them."""
    contexts: tuple[str, ...]
    """Columns of texts that are put before the question."""
    first_choice: int | None
    """Number of the first choice if the gold answers are numbers of choices."""
    puzzle: str
    """`countdown` or `sudoku`, whose question is written here; otherwise empty."""
    task: str
    """Task of a row without a column `task`."""
    is_task_given: bool
    """Whether the settings determine the task, and not the images."""

    def describe(self) -> str:
        """Returns one line for the log."""
        parts = [f"question from {self.question!r}" if self.question else f"question of a {self.puzzle} puzzle"]
        parts.append(f"gold from {self.gold!r}" if self.gold else "no gold column")
        if self.images:
            parts.append(f"images from {', '.join(map(repr, self.images))}")
        if self.contexts:
            parts.append(f"text before it from {', '.join(map(repr, self.contexts))}")
        if self.options or self.lettered:
            parts.append(f"choices from {', '.join(map(repr, self.lettered or (self.options,)))}")
        if self.first_choice is not None:
            parts.append(f"which the gold numbers from {self.first_choice} on")
        return ", ".join(parts)

    def choices(self, row: Row) -> object:
        """Returns the choices of a row, as :func:`~unigrpo.data.choices.choice_texts` reads them; None without any."""
        if not self.lettered:
            return row.get(self.options) if self.options else None
        cells = [row.get(name) for name in self.lettered]
        while cells and cells[-1] in (None, "", "nan"):
            cells.pop()
        return [str(cell).strip() for cell in cells]


def find_columns(table: Table, file: PromptFileConfig) -> PromptColumns:
    """Finds the meaning of the columns of a table.

    Args:
        table: Any table.
        file: Its settings; columns that they leave out are found by the usual names, in upper or lower case.

    Raises:
        ValueError: There is no column for the question, or a column that the settings name does not exist.
        BadSample: None of the first rows can be read.
    """
    rows = previewed_rows(table)
    found: dict[str, str] = {}
    for row in rows:
        found.update({str(name).lower(): str(name) for name in row if str(name).lower() not in found})
    for setting in ("prompt_key", "label_key", "image_key"):
        asked = getattr(file, setting)
        if asked and not any(_has(row, asked) for row in rows):
            raise DataError(
                f"{file.path}: no column {asked!r} ({setting}) in {table.key(0)} and the rows after it; found "
                f"{shown_columns(found.values())}"
            )
    puzzle = _puzzle(found)
    question = file.prompt_key or next((found[key] for key in INPUT_KEYS if key in found), "")
    if not question and not puzzle:
        raise DataError(
            f"{file.path}: {table.key(0)} has no column for the question, one of {list(INPUT_KEYS)}; found "
            f"{shown_columns(found.values())}. Name it by prompt_key"
        )
    named = [found[key] for key in found if key in IMAGE_KEYS or NUMBERED_IMAGE.fullmatch(key)]
    images = [file.image_key] if file.image_key else [found[DECODED_IMAGE]] if DECODED_IMAGE in found else named
    cells = [(row, key) for row in rows for key in (*images, question) if key in row]
    shows = any(_shows_image(row[key], key == question) for row, key in cells)
    gold = file.label_key or _gold_column(rows, found)
    options = next((found[key] for key in OPTION_KEYS if key in found and found[key] != gold), "")
    lettered = () if options else _choice_columns(rows, gold, found)
    context_keys = (*CONTEXT_KEYS, *([HINT_KEY] if options or lettered else []))
    columns = PromptColumns(
        question=question,
        gold=gold,
        images=tuple(images),
        options=options,
        lettered=lettered,
        contexts=tuple(found[key] for key in context_keys if key in found and found[key] != question),
        first_choice=None,
        puzzle="" if question else puzzle,
        task=file.task or ("mmu" if shows else "text"),
        is_task_given=bool(file.task),
    )
    _warn_of_unread_choices(rows, columns, file.path)
    return replace(columns, first_choice=_first_choice(rows, columns, file.path))


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
        if not _has(row, columns.question):
            raise BadSample(
                "no question", f"{where}: no column for the question ({columns.question!r}); found keys {sorted(row)}"
            )
        question = chat_in(_cell(row, columns.question))
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
        gold = _cell(row, columns.gold) if columns.gold else answer
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


def _shows_image(cell: object, is_question: bool) -> bool:
    cell = chat_in(cell) if is_question else cell
    try:
        return not (is_question and isinstance(cell, str)) and bool(images_in(cell, ""))
    except BadSample:
        return True


def _puzzle(found: Mapping[str, str]) -> str:
    if TARGET_KEY in found and any(key in found for key in NUMBER_KEYS):
        return "countdown"
    return "sudoku" if PUZZLE_KEY in found and SOLUTION_KEY in found else ""


def _gold_column(rows: list[Row], found: Mapping[str, str]) -> str:
    """Returns the first of the usual columns that has a value in some row."""
    for key in LABEL_KEYS:
        name = found.get(key, key)
        cells = [_cell(row, name) for row in rows]
        if key == "correct":  # the letter of a choice, or whether somebody's answer was right
            cells = [cell for cell in cells if not isinstance(cell, bool)]
        if any(cell not in (None, "", []) for cell in cells):
            return name
    return ""


def _choice_columns(rows: list[Row], gold: str, found: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the columns of one choice each, if they are texts and every gold names one of them."""
    columns = choice_columns(found.values())
    letters = {letter for letter, _ in zip(LETTERS, columns, strict=False)}
    golds = [(str(value), row) for row in rows if gold and (value := _cell(row, gold)) is not None]
    named = (
        value.upper() in letters or value.isdigit() or value in [row.get(name) for name in columns]
        for value, row in golds
    )
    texts = (cell is None or isinstance(cell, str) for row in rows for cell in (row.get(name) for name in columns[:2]))
    return columns if golds and all(named) and all(texts) else ()


def _first_choice(rows: list[Row], columns: PromptColumns, path: str) -> int | None:
    """Returns the number of the first choice, if the golds are numbers of choices."""
    gold = columns.gold
    if not gold or not (columns.options or columns.lettered):
        return None
    known = [row for row in rows if _cell(row, gold) is not None]
    golds, choices = [_cell(row, gold) for row in known], [columns.choices(row) for row in known]
    return first_number(golds, choices, f"{path}: {gold!r}")


def _warn_of_unread_choices(rows: list[Row], columns: PromptColumns, path: str) -> None:
    """Warns of a column of choices in an unknown form."""
    cells = [row[columns.options] for row in rows if row.get(columns.options)] if columns.options else []
    if cells and not any(map(choice_texts, cells)):
        logger.warning("%s: %r is not read as choices; found %.80r", path, columns.options, cells[0])


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


def _has(row: Row, name: str) -> bool:
    return name in row or ("." in name and _cell(row, name) is not None)


def _cell(row: Row, name: str) -> Any:
    """Returns the value of a column, whose name may have dots for fields of objects; None if it does not exist."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


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
