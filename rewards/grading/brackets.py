"""These functions find how deep brackets are nested, where they close, and what stands between separators."""

from __future__ import annotations

import re
from collections.abc import Iterator

DEEPEST = 50
"""The grader reads no deeper nesting of brackets."""
OPEN, CLOSE = "([{⦃", ")]}⦄"
COMMA = re.compile(",")


def depth(text: str) -> int | None:
    """Returns the deepest nesting of brackets, or None if they do not close or are deeper than ``DEEPEST``."""
    depth = deepest = braces = 0
    for sign in text:
        step = (sign in OPEN) - (sign in CLOSE)
        depth += step
        deepest = max(deepest, depth)
        braces += step * (sign in "{}⦃⦄")
    return deepest if depth == braces == 0 and deepest <= DEEPEST else None


def is_bracketed(text: str) -> bool:
    """Returns whether the first sign is a bracket that the last sign closes."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in OPEN) - (sign in CLOSE)
        if depth == 0:
            return place == len(text) - 1 and sign in CLOSE
    return False


def outside(text: str, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """Yields the matches of a pattern that stand outside of all brackets."""
    seen = depth = 0
    for found in pattern.finditer(text):
        depth += sum((sign in OPEN) - (sign in CLOSE) for sign in text[seen : found.start()])
        seen = found.start()
        if depth == 0:
            yield found


def split(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Returns the parts between separators that stand outside of all brackets.

    >>> split("(1, 2), 3", re.compile(","))
    ['(1, 2)', '3']
    """
    places = [found.span() for found in outside(text, pattern)]
    starts, ends = [0, *(end for _, end in places)], [*(start for start, _ in places), len(text)]
    return [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]


def without_brackets(text: str) -> str:
    """Removes parentheses and braces around the whole text, unless they hold a list or the letter of an option."""
    text = text.strip()
    for _ in range(DEEPEST):
        inner = text[1:-1].strip()
        if not inner or text[0] + text[-1] not in ("()", "{}") or not is_bracketed(text):
            break
        if text[0] == "(" and (len(split(inner, COMMA)) > 1 or re.fullmatch(r"[A-J]", inner)):
            break
        text = inner
    return text
