"""Inequalities against intervals and against each other."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rewards.grading.structure import split

INEQUALITY = re.compile(r"([^<>≤≥=≠∪]+)(<|>|≤|≥)([^<>≤≥=≠∪]+)(?:(<|>|≤|≥)([^<>≤≥=≠∪]+))?")
_NAME = re.compile(r"[A-Za-z](?:_\w)?|\\(?:theta|alpha|lambda)")
_MEMBER = re.compile(r"([A-Za-z])\s*∈\s*(.+)")
_SET = re.compile(r"⦃\s*[A-Za-z]\s*[|:]\s*(.+)⦄")
_MIRRORED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}


@dataclass(frozen=True)
class _Interval:
    low: str
    high: str
    ends: str
    """Its two brackets."""
    name: str = ""
    """The variable, where one is named."""


def same(gold: str, answer: str, equal: Callable[[str, str], bool]) -> bool | None:
    """Whether two unions of intervals are the same; None unless one side is an inequality or names its variable.

    Args:
        gold: Gold answer in normal spelling.
        answer: Answer in normal spelling.
        equal: Compares two end points.
    """
    ours, theirs = _read(gold), _read(answer)
    if ours is None or theirs is None or not any(part.name for part in ours + theirs):
        return None
    if len(ours) != len(theirs) or len({part.name for part in ours + theirs} - {""}) > 1:
        return False
    first = ours[0]
    if len(ours) == 1 and not first.name and first.ends == "()" and "∞" not in first.low + first.high:
        return None if "∈" in answer else False  # the gold may be a point or a list
    left = list(theirs)
    for part in ours:
        found = next((other for other in left if _same_interval(part, other, equal)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_interval(one: _Interval, two: _Interval, equal: Callable[[str, str], bool]) -> bool:
    return one.ends == two.ends and equal(one.low, two.low) and equal(one.high, two.high)


def _read(text: str) -> list[_Interval] | None:
    described = _SET.fullmatch(text)
    text = described[1] if described else text
    member = _MEMBER.fullmatch(text)
    name = member[1] if member else ""
    parts = re.split(r"\s+or\s+|∪", member[2] if member else text)
    found = [_interval(part.strip(), name) for part in parts]
    read = [part for part in found if part is not None]
    return read if len(read) == len(found) else None


def _interval(text: str, name: str) -> _Interval | None:
    sides = INEQUALITY.fullmatch(text)
    if sides:
        return _from_inequality(*(part.strip() if part else "" for part in sides.groups()))
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    ends = [end.lstrip("+").strip() for end in split(text[1:-1], ",")]
    return _Interval(ends[0], ends[1], text[0] + text[-1], name) if len(ends) == 2 and all(ends) else None


def _from_inequality(first: str, sign: str, second: str, sign2: str, third: str) -> _Interval | None:
    if not sign2:
        if _NAME.fullmatch(second):
            first, sign, second = second, _MIRRORED[sign], first
        if not _NAME.fullmatch(first):
            return None
        if sign in "<≤":
            return _Interval("-∞", second, "(" + (")" if sign == "<" else "]"), first)
        return _Interval(second, "∞", ("(" if sign == ">" else "[") + ")", first)
    if not _NAME.fullmatch(second) or (sign in "<≤") != (sign2 in "<≤"):
        return None
    if sign in ">≥":
        first, sign, sign2, third = third, _MIRRORED[sign2], _MIRRORED[sign], first
    return _Interval(first, third, ("(" if sign == "<" else "[") + (")" if sign2 == "<" else "]"), second)
