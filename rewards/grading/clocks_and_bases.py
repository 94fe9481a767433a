"""Times of day and numerals with a base: compared as written, since a parser would read ratios and subscripts."""

from __future__ import annotations

import re

_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(?:([ap])\.?\s*m\.?)?(?:\s*o'clock)?", re.IGNORECASE)
_HOUR = re.compile(r"(\d{1,2})\s*([ap])\.?\s*m\.?", re.IGNORECASE)
_BASE = re.compile(r"\(?([0-9A-Za-z]+)\)?\s*(?:_\{?\s*\(?(\w+)\)?\s*\}?|\s+\(?(?:in )?base[ -](\w+)\)?)")
_BASE_NAMES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
               "ten": "10", "twelve": "12", "sixteen": "16", "hex": "16", "bin": "2", "oct": "8"}  # fmt: skip


def time(text: str) -> tuple[int, int, int, str] | None:
    """Returns hour, minute, second and clock ("24", or "" where am and pm are open) of a time; None for other text."""
    found = _TIME.fullmatch(text.strip().rstrip("."))
    if found:
        hour, minute, second, half = int(found[1]), int(found[2]), int(found[3] or 0), (found[4] or "").lower()
    else:
        found = _HOUR.fullmatch(text.strip().rstrip("."))
        if not found:
            return None
        hour, minute, second, half = int(found[1]), 0, 0, found[2].lower()
    if half and hour > 12 and half == "p":
        return hour, minute, second, "24"
    if half:
        return hour % 12 + (12 if half == "p" else 0), minute, second, "24"
    return hour, minute, second, "24" if hour > 12 else ""


def base(text: str) -> tuple[str, str] | None:
    """Returns digits and base of a number that names its base; None for other text."""
    found = _BASE.fullmatch(text.strip())
    if not found or not any(sign.isdigit() for sign in found[1]):
        return None
    base = (found[2] or found[3]).lower()
    return found[1].upper(), _BASE_NAMES.get(base, base)
