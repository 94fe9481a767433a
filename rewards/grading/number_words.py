"""Numbers in English words -> exact fractions."""

from __future__ import annotations

import re
from fractions import Fraction

_ONES = {word: value for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen".split()
)}  # fmt: skip
_TENS = {
    word: 10 * value for value, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)
}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
          "ninth": 9, "tenth": 10}  # fmt: skip
NUMBER_WORDS = frozenset(_ONES) | frozenset(_TENS)
_TOKEN = re.compile(r"[^\s-]+")


def read(text: str) -> tuple[Fraction, str] | None:
    """The number that a text begins with, and the text behind it.

    >>> read("three and a half cups"), read("two-thirds"), read("third")
    ((Fraction(7, 2), 'cups'), (Fraction(2, 3), ''), None)
    """
    found = list(_TOKEN.finditer(text))[:24]
    names = [token[0].lower().rstrip(",") for token in found]
    negative = bool(names) and names[0] in {"negative", "minus"}
    outcome = _quantity(names, int(negative))
    if outcome is None:
        return None
    value, used = outcome
    return -value if negative else value, text[found[used - 1].end() :].strip()


def _quantity(names: list[str], start: int) -> tuple[Fraction, int] | None:
    part = _part(names, start)
    if part:
        return part
    whole = _whole(names, start)
    if whole is None:
        return None
    value, used = whole
    part = _part(names, used + 1) if names[used : used + 1] == ["and"] else None
    return (value + part[0], part[1]) if part else (Fraction(value), used)


def _part(names: list[str], start: int) -> tuple[Fraction, int] | None:
    """Such as "a half" or "three quarters"."""
    if len(names) < start + 2:
        return None
    top = 1 if names[start] in {"a", "an"} else _ONES.get(names[start], 0)
    below = names[start + 1]
    size = _PARTS.get(below if top == 1 else {"halves": "half"}.get(below, below.removesuffix("s")))
    return (Fraction(top, size), start + 2) if top and size else None


def _whole(names: list[str], start: int) -> tuple[int, int] | None:
    total = current = 0
    used = start
    for place, name in enumerate(names[start:], start):
        if name in _ONES:
            if current % 100 and (current % 100 < 20 or current % 10 or _ONES[name] > 9):
                return None
            current += _ONES[name]
        elif name in _TENS:
            if current % 100:
                return None
            current += _TENS[name]
        elif name == "hundred" and 0 < current < 100:
            current *= 100
        elif name in SCALES and current and name != "hundred":
            total, current = total + current * SCALES[name], 0
        elif name == "a" and place == start and names[start + 1 : start + 2] and names[start + 1] in SCALES:
            current = 1
        elif name == "and" and used > start and names[place - 1] in SCALES and _starts_small(names, place + 1):
            pass
        else:
            break
        used = place + 1
    return (total + current, used) if used > start else None


def _starts_small(names: list[str], place: int) -> bool:
    return place < len(names) and names[place] in NUMBER_WORDS and _part(names, place) is None
