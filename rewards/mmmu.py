"""Reward for right answers to questions of MMMU: choices by their letter or text, and open answers."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.reply import final_reply

SHORTEST_QUOTE = 5
"""Only a response of more words than this is searched for the text of an option."""
KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""Words after which an open answer is expected. In the last line the sign = is one more."""
_NUMBERS = tuple(map(re.compile, (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)))  # fmt: skip
"""Numbers with thousands, in scientific notation, and plain ones; a text may be read in several of these ways."""
_LETTER = re.compile(r"[A-J]")
Value = str | float


class Mmmu(Reward):
    """1 if the answer, read by MMMU's rules, is right, else 0.

    The column `options` has the options of a multiple-choice question. A question is open if its column
    `question_type` is `open`, or if its gold answer is not a letter. If a response chooses no option, MMMU's script
    guesses at random; here the response is wrong, so that the value does not depend on chance.

    Source:
        MMMU, arXiv:2311.16502, section 4.1, with the reading of answers of its `eval_utils.py`.
    """

    name = "mmmu"
    range = (0.0, 1.0)
    unit = "1 if correct"

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(_is_right(item)) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)
        gold, options = (prompt.label or "").strip(), options_of(prompt)
        if not gold:
            raise ValueError("expected a letter, or the answer to an open question, as gold; found none")
        if not _is_open(prompt) and options and gold not in string.ascii_uppercase[: len(options)]:
            raise ValueError(f"the gold is {gold!r}, but the question has {len(options)} options")


def _is_open(item: RewardInput) -> bool:
    return item.metadata.get("question_type") == "open" or not _LETTER.fullmatch((item.label or "").strip())


def _is_right(item: RewardInput) -> bool:
    reply, gold = final_reply(item.completion), (item.label or "").strip()
    if _is_open(item):
        return matches_open(reply, _list_of(gold) or [gold])
    options = options_of(item)
    return chosen_letter(reply, options or [""] * (ord(gold) - ord("A") + 4)) == gold


def options_of(item: RewardInput) -> list[str]:
    """Returns the texts of the options of a question, from a list or from MMMU's text of a list."""
    options: Any = item.metadata.get("options", item.metadata.get("choices"))
    if isinstance(options, Mapping):
        options = options.get("text")
    if isinstance(options, str):
        return _list_of(options)
    return [str(option) for option in options] if isinstance(options, Sequence) else []


def chosen_letter(response: str, options: Sequence[str]) -> str | None:
    """Returns the letter that a response chooses, or None.

    The letter is searched in brackets first, then between spaces, and in responses of more than five words the text of
    an option counts as well. The last one that is found is the choice.

    >>> chosen_letter("(A) is wrong, so it is (B).", ["x", "y"]), chosen_letter("x", ["x"])
    ('B', None)
    """
    for sign in ",.!?;:'":
        response = response.strip(sign)
    response = f" {response} "
    letters = string.ascii_uppercase[: len(options)]
    forms = [[(letter, f"({letter})") for letter in letters], [(letter, f" {letter} ") for letter in letters]]
    for named in forms:
        found = [(response.rfind(form), letter) for letter, form in named if form in response]
        if found:
            return max(found)[1]
    if len(response.split()) <= SHORTEST_QUOTE:
        return None
    lower = response.lower()
    quoted = [(lower.rfind(option.lower()), letter) for letter, option in zip(letters, options, strict=True) if option]
    place, letter = max(quoted, default=(-1, ""), key=lambda one: one[0])
    return letter if place >= 0 else None


def matches_open(response: str, golds: Sequence[str]) -> bool:
    """Returns whether an answer to an open question contains one of the gold answers.

    The text after a word such as `is` or `answer` in a line is compared, or the whole response if there is no such
    word. A gold answer that is a number must equal a number in this text, both rounded to two places; other gold
    answers must occur in the text.

    >>> matches_open("So the total is $1,250.", ["1250"]), matches_open("It is a red fox", ["fox"])
    (True, True)
    """
    parts = _key_parts(response)
    texts = [*parts, *(number for part in parts for form in _NUMBERS for number in form.findall(part))]
    found = [value for text in texts for value in _values(text)]
    wanted = [value for gold in golds for value in _values(gold)]
    return any(
        value in found if isinstance(value, float) else any(str(value) in one for one in found if isinstance(one, str))
        for value in wanted
    )


def _key_parts(response: str) -> list[str]:
    """Returns the shortest ends of the lines of a response that follow one of the keys."""
    response = response.strip().strip(".").lower()
    lines = response.split("\n")
    parts: list[str] = []
    for number, line in enumerate(lines, start=1):
        keys = (*KEYS, "=") if number == len(lines) else KEYS
        ends = [line.rpartition(key)[2].strip() for key in keys if key in line]
        shortest = min(ends, key=len, default="")
        if shortest and shortest not in list(":,.!?;'"):
            parts.append(shortest)
    return parts or [response]


def _values(text: str) -> list[Value]:
    """Returns a text as a number with two places, or in lower case; a single character only beside a space, so that it
    does not match inside a word."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lower = text.lower()
        return [f" {lower}", f"{lower} "] if len(lower) == 1 else [lower]


def _list_of(text: str) -> list[str]:
    """Returns the entries of a text such as ``['24', '25']``; nothing for any other text."""
    if not text.strip().startswith("["):
        return []
    try:
        entries = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    return [str(entry) for entry in entries] if isinstance(entries, list) else []
