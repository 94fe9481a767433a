"""The meaning of the columns of a table of prompts: which holds the question, the gold answer, images and choices."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unigrpo import DataError
from unigrpo.config import PromptFileConfig
from unigrpo.data.bad_samples import BadSample, shown_columns
from unigrpo.data.choices import LETTERS, choice_columns, choice_texts, first_number
from unigrpo.data.embedded_images import images_in
from unigrpo.data.prompt_chats import chat_in
from unigrpo.data.tables import Row, Table, previewed_rows

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
NUMBER_KEYS, TARGET_KEY = ("nums", "numbers"), "target"
PUZZLE_KEY, SOLUTION_KEY = "puzzle", "solution"


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
        if asked and not any(has_column(row, asked) for row in rows):
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
        cells = [cell_of(row, name) for row in rows]
        if key == "correct":  # the letter of a choice, or whether somebody's answer was right
            cells = [cell for cell in cells if not isinstance(cell, bool)]
        if any(cell not in (None, "", []) for cell in cells):
            return name
    return ""


def _choice_columns(rows: list[Row], gold: str, found: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the columns of one choice each, if they are texts and every gold names one of them."""
    columns = choice_columns(found.values())
    letters = {letter for letter, _ in zip(LETTERS, columns, strict=False)}
    golds = [(str(value), row) for row in rows if gold and (value := cell_of(row, gold)) is not None]
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
    known = [row for row in rows if cell_of(row, gold) is not None]
    golds, choices = [cell_of(row, gold) for row in known], [columns.choices(row) for row in known]
    return first_number(golds, choices, f"{path}: {gold!r}")


def _warn_of_unread_choices(rows: list[Row], columns: PromptColumns, path: str) -> None:
    """Warns of a column of choices in an unknown form."""
    cells = [row[columns.options] for row in rows if row.get(columns.options)] if columns.options else []
    if cells and not any(map(choice_texts, cells)):
        logger.warning("%s: %r is not read as choices; found %.80r", path, columns.options, cells[0])


def has_column(row: Row, name: str) -> bool:
    """Whether a row has a column, in whose name points may lead into objects."""
    return name in row or ("." in name and cell_of(row, name) is not None)


def cell_of(row: Row, name: str) -> Any:
    """Returns the value of a column, whose name may have dots for fields of objects; None if it does not exist."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
