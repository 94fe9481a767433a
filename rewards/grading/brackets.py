"""These functions find how deep brackets are nested, where they close, and what stands between separators."""

from __future__ import annotations

import re
from itertools import accumulate

DEEPEST = 50
"""The grader reads no deeper nesting of brackets."""
OPEN, CLOSE = "([{⦃", ")]}⦄"


def _levels(text: str) -> list[int]:
    """Returns how many brackets are open behind each sign."""
    return list(accumulate((sign in OPEN) - (sign in CLOSE) for sign in text))


def depth(text: str) -> int | None:
    """Returns the deepest nesting of brackets, or None if they do not close or are deeper than ``DEEPEST``."""
    levels = [0, *_levels(text)]
    num_braces = sum((sign in "{⦃") - (sign in "}⦄") for sign in text)
    return max(levels) if levels[-1] == num_braces == 0 and max(levels) <= DEEPEST else None


def is_bracketed(text: str) -> bool:
    """Returns whether the first sign is a bracket that the last sign closes."""
    levels = _levels(text) if text.startswith(tuple(OPEN)) else []
    return levels[-1:] == [0] and 0 not in levels[:-1] and text[-1] in CLOSE


def outside(text: str, pattern: str) -> list[re.Match[str]]:
    """Returns the matches of a pattern that stand outside of all brackets."""
    matches = list(re.finditer(pattern, text))
    levels = [0, *_levels(text)] if matches else []
    return [found for found in matches if not levels[found.start()]]


def split(text: str, pattern: str) -> list[str]:
    """Returns the parts between separators that stand outside of all brackets.

    >>> split("(1, 2), 3", ",")
    ['(1, 2)', '3']
    """
    places = [0, *(place for found in outside(text, pattern) for place in found.span()), len(text)]
    return [text[start:end].strip() for start, end in zip(places[::2], places[1::2], strict=True)]


def without_brackets(text: str) -> str:
    """Removes parentheses and braces around the whole text, unless the parentheses hold a list."""
    text = text.strip()
    while text[:1] + text[-1:] in ("()", "{}") and text[1:-1].strip() and is_bracketed(text):
        inner = text[1:-1].strip()
        if text[0] == "(" and len(split(inner, ",")) > 1:
            break
        text = inner
    return text
