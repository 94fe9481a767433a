"""Multiple-choice questions: the texts and names of the choices, and gold answers by number, name or text."""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unigrpo import DataError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LETTERED = re.compile(r"\(?([A-Z])[).:]\s*(.+)", re.DOTALL)
"""A choice with its letter, such as `B. text` and `(B) text`."""
NAMED = re.compile(r"(?:option|choice|Option|Choice) \(?([A-Z])\)?\.?")
MARKED = re.compile(r"(?:^|(?<=[\s,;]))\(?([A-Za-z])\s?[).:]\s*")
"""The letter before a choice in a text of all choices, such as `A. 1; B. 2` and `a ) 38 , b ) 27`."""
LETTERED_COLUMN = re.compile(r"(|choice_?|option_?|opt_?|op)([a-z])")
"""Columns that hold one choice each, in lower case: `a`, `choice_a`, `option_a` or `opa`."""
FIRST_LETTER = re.compile(r"(?<!\w)[AB]\s?(?:[).:]|\}|$)|<[AB]>|\([AB]\)", re.IGNORECASE | re.MULTILINE)
"""The letter before the first choices of a question, as in `A. `, `(A)` and `\\textbf{(A)}`."""
MARKUP = re.compile(r"\\(?:text|math)(?:bf|rm|it|sf)?\s*\{([^{}]*)\}|\\[ ,;:!]|~|\\q?quad|\$")
"""LaTeX commands that only format a choice, as in `\\textbf{(B)}\\ 5` of the AMC."""


def choice_texts(value: object) -> list[str]:
    """Returns choices as texts, from a list, MMMU's text of a list, ARC's object with a list, an object with a choice
    for each letter, or a text with a letter before each choice; [] if it is none of them.

    >>> choice_texts("a ) 38 , b ) 27"), choice_texts({"A": "leaf", "B": "root"}), choice_texts("leaf, root")
    (['38', '27'], ['leaf', 'root'], [])
    """
    if isinstance(value, Mapping):
        value = list(value.values()) if _are_letters(value) else value.get("text")
    if isinstance(value, str) and value.strip().startswith("["):
        value = list_in(value)
    if isinstance(value, str):
        return [text for _, text in _marked(value)]
    return [str(option) for option in value] if isinstance(value, (list, tuple)) else []


def list_in(text: str) -> object:
    """Returns the value of a text that is a list in the notation of JSON or Python; None if it is neither.

    >>> list_in('["3", null]'), list_in("['3', 'x']"), list_in("[3")
    (['3', None], ['3', 'x'], None)
    """
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return None


def choice_names(value: object) -> list[str]:
    """Returns the names that a data set itself gives its choices, as ARC's object does; [] if it gives none."""
    if isinstance(value, str):
        return [name for name, _ in _marked(value)]
    if not isinstance(value, Mapping):
        return []
    names = list(value) if _are_letters(value) else value.get("label")
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []


def choice_columns(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the columns that hold one choice each, in the order of their letters from A; () if there are none.

    >>> choice_columns(["question", "B", "A", "answer", "D"]), choice_columns(["choice_a", "choice_b"])
    (('A', 'B'), ('choice_a', 'choice_b'))
    >>> choice_columns(["a", "option_a"])
    ()
    """
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := LETTERED_COLUMN.fullmatch(name.lower()):
            found.setdefault(match[1], {})[match[2].upper()] = name
    for columns in found.values():
        named = list(itertools.takewhile(columns.__contains__, LETTERS))
        if len(named) > 1:
            return tuple(columns[letter] for letter in named)
    return ()


def with_choices(question: str, options: Sequence[str]) -> str:
    """Returns the question with its choices after it, unless it has them already.

    >>> with_choices("Which?", ["a leaf", "a root"])
    'Which?\\nA. a leaf\\nB. a root'
    >>> with_choices("Which?", ["A) 21", "B) 22"])
    'Which?\\nA) 21\\nB) 22'
    """
    if not has_letters(question, options):
        return question
    named = zip(LETTERS, options, strict=False)
    lettered = [option if _is_named(option, letter) else f"{letter}. {option}" for letter, option in named]
    return "\n".join([question, *lettered])


def has_letters(question: str, options: Sequence[str]) -> bool:
    """Whether :func:`with_choices` writes the choices after a question, with letters."""
    return 0 < len(options) <= len(LETTERS) and not all(option in question for option in options)


def lack_choices(questions: Sequence[str], golds: Sequence[str]) -> bool:
    """Whether all golds are letters of choices, from A to J, and no question shows choices."""
    letters = tuple(LETTERS[:10])
    return (
        bool(golds) and all(gold.upper() in letters for gold in golds) and not any(map(FIRST_LETTER.search, questions))
    )


def letter_of(gold: str, question: str, options: Sequence[str], names: Sequence[str], first: int | None) -> str:
    """Returns the letter of the choice that a gold answer names, or otherwise the gold answer itself.

    >>> letter_of("1", "Which?", ["leaf", "root"], [], 0), letter_of("root", "Which?", ["leaf", "root"], [], None)
    ('B', 'B')
    >>> letter_of("\\\\textbf{(B)}\\\\ 5", "$\\\\textbf{(A)}\\\\ 3\\\\qquad\\\\textbf{(B)}\\\\ 5$", [], [], None)
    'B'
    >>> letter_of("B. text", "Which?\\nA. x\\nB. text", [], [], None), letter_of("A. Lincoln", "Who?", [], [], None)
    ('B', 'A. Lincoln')

    Args:
        gold: Gold answer of a row.
        question: Question of the row, unchanged.
        options: Texts of the choices.
        names: Names of the choices in the data set.
        first: Number of the first choice if gold answers are numbers of choices; otherwise None.

    Raises:
        DataError: There is no choice of this number.
    """
    if first is not None and options:
        number = int(gold) - first if gold.isdigit() else -1
        if not 0 <= number < len(options):
            raise DataError(
                f"no choice of the number {gold!r:.60} among {len(options)}, of which the first is {first}"
            )
        return LETTERS[number]
    if gold in names[: len(LETTERS)]:
        return LETTERS[names.index(gold)]
    named, lettered = NAMED.fullmatch(_plain(gold)), LETTERED.fullmatch(_plain(gold))
    if named:
        return named[1]
    if lettered and _is_choice(lettered[1], lettered[2], _plain(question), [_plain(option) for option in options]):
        return lettered[1]
    is_text = gold not in LETTERS[: len(options)] and list(options).count(gold) == 1
    return LETTERS[options.index(gold)] if is_text and has_letters(question, options) else gold


def first_number(golds: Sequence[object], choices: Sequence[Any], what: str) -> int | None:
    """Returns the number of the first choice, 0 or 1, if golds are numbers of choices; None if they are not.

    Args:
        golds: Golds of some rows.
        choices: Choices of these rows, as in the file.
        what: Name of the column for errors.

    Raises:
        DataError: They are numbers, but it cannot be determined whether the first is 0 or 1.
    """
    rows = [(str(gold), choice_texts(options)) for gold, options in zip(golds, choices, strict=True)]
    rows = [(gold, options) for gold, options in rows if options]
    if not rows or any(map(choice_names, choices)) or all(gold in options for gold, options in rows):
        return None
    if not all(gold.isdigit() and int(gold) <= len(options) for gold, options in rows):
        return None
    has_first, has_last = any(int(gold) == 0 for gold, _ in rows), any(int(gold) == len(o) for gold, o in rows)
    if has_first == has_last:
        raise DataError(
            f"{what} has the numbers of choices, and the first {len(rows)} rows do not show whether the first choice "
            "is 0 or 1; write letters (A, B, C) into the file"
        )
    return 0 if has_first else 1


def _are_letters(names: Iterable[object]) -> bool:
    """Whether names are the letters from A on, at least two of them."""
    letters = "".join(str(name).upper() for name in names)
    return len(letters) > 1 and LETTERS.startswith(letters)


def _marked(text: str) -> list[tuple[str, str]]:
    """Returns letter and text of each choice in a text of all choices; [] if their letters are not those from A on."""
    marks = list(MARKED.finditer(text))
    if not _are_letters([mark[1] for mark in marks]) or text[: marks[0].start()].strip():
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [(mark[1], text[mark.end() : end].strip(" \t\n,;")) for mark, end in zip(marks, ends, strict=True)]


def _is_named(option: str, letter: str) -> bool:
    found = LETTERED.fullmatch(option.strip())
    return bool(found) and found[1] == letter


def _is_choice(letter: str, text: str, question: str, options: Sequence[str]) -> bool:
    """Whether the choice of this letter has this text."""
    number = LETTERS.index(letter)
    if number < len(options):
        return options[number] in (text, f"{letter}. {text}", f"{letter}) {text}", f"({letter}) {text}")
    return bool(re.search(rf"\b{letter}[).:]\s*{re.escape(text)}(?!\w)", question))


def _plain(text: str) -> str:
    """Returns a text without LaTeX that only formats it, and with single spaces."""
    return " ".join(MARKUP.sub(lambda found: found[1] or " ", text).split())
