"""An inequality against the interval that it describes."""

from __future__ import annotations

import re

from rewards.grading import numbers

INEQUALITY = re.compile(r"([^<>≤≥=≠]+)(<|>|≤|≥)([^<>≤≥=≠]+)(?:(<|>|≤|≥)([^<>≤≥=≠]+))?")
_SYMBOL = re.compile(r"[A-Za-z](?:_\w)?|\\(?:theta|alpha|lambda)")


def same(gold: str, answer: str) -> bool | None:
    """An inequality against an interval; None where not exactly one of the two is an inequality."""
    one, two = INEQUALITY.fullmatch(gold), INEQUALITY.fullmatch(answer)
    if bool(one) == bool(two) or "∪" in gold + answer:
        return None
    interval = re.sub(r"^[A-Za-z]\s*∈\s*", "", answer if one else gold).replace(" ", "")
    found = re.fullmatch(r"([(\[])([^,]+),([^,]+)([)\]])", interval)
    if not found:
        return None
    if found[1] + found[4] in ("()", "[]") and "∞" not in interval and "∈" not in (answer if one else gold):
        return False  # may be a point or a list
    inequality = _as_interval((one or two).groups())  # pyright: ignore[reportOptionalMemberAccess]
    if inequality is None:
        return False
    low, high = (numbers.parse(side) for side in found.groups()[1:3])
    sides = (low.value if low else found[2].lstrip("+"), high.value if high else found[3].lstrip("+"))
    return inequality == (found[1], *sides, found[4])


def _as_interval(groups: tuple[str, ...]) -> tuple[object, ...] | None:
    first, sign, second, sign2, third = (part.strip() if part else part for part in groups)
    flip = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}

    def side(text: str) -> object:
        number = numbers.parse(text)
        return number.value if number else text.replace(" ", "")

    if sign2:
        if not _SYMBOL.fullmatch(second) or sign2 not in (("<", "≤") if sign in "<≤" else (">", "≥")):
            return None
        if sign in ">≥":
            first, sign, sign2, third = third, flip[sign2], flip[sign], first
        return ("(" if sign == "<" else "["), side(first), side(third), (")" if sign2 == "<" else "]")
    if _SYMBOL.fullmatch(second):
        first, sign, second = second, flip[sign], first
    if not _SYMBOL.fullmatch(first):
        return None
    if sign in "<≤":
        return "(", "-∞", side(second), (")" if sign == "<" else "]")
    return ("(" if sign == ">" else "["), side(second), "∞", ")"
