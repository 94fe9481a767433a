"""A mathematical answer is parsed into a typed value, such as a number, an interval, a matrix or an expression."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from rewards.grading import numbers, units
from rewards.grading.expressions import calculated, is_bracketed, is_readable, outside, split, symbols, unbracketed
from rewards.grading.numbers import NAME, Number, to_digits

Time = NamedTuple("Time", [("hour", int), ("minute", int), ("second", int), ("is_half_known", bool)])
"""A time of day. The half of the day is known by "p.m.", or by an hour above 12."""
Interval = NamedTuple("Interval", [("brackets", str), ("items", tuple[str, str]), ("name", str)])
"""An interval with its two ends. It has the name of its variable where it was written as an inequality."""
Sequence = NamedTuple("Sequence", [("brackets", str), ("items", tuple[str, ...])])
"""The items of a list, which has no brackets, of a tuple, or of a set, whose brackets are ``⦃⦄``. A set of one point
has the brackets ``⦃()⦄``, and the values of ``x = 3, y = 4`` have their names for brackets, ``xy``."""
Union = NamedTuple("Union", [("parts", tuple["Interval | Sequence", ...])])
"""Intervals and sets that together are one set."""
Matrix = NamedTuple("Matrix", [("rows", tuple[tuple[str, ...], ...])])
"""A matrix as rows of cells."""
Relation = NamedTuple("Relation", [("sides", tuple[str, ...]), ("signs", str)])
"""The sides of an equation, or of an inequality from its smallest side on, and the signs between them."""
Expression = NamedTuple("Expression", [("text", str), ("unit", str)])
"""A formula that sympy compares, with its unit where one is known."""
Words = NamedTuple("Words", [("text", str)])
"""A text that is compared by its spelling, such as a name, or a numeral with its base."""
Value = Number | Time | Interval | Union | Sequence | Matrix | Relation | Expression | Words

Parsed = NamedTuple("Parsed", [("values", tuple[Value, ...]), ("name", str)])
"""The values of an answer, usually one. An equation such as ``2 + 5 = 7`` has one for each side, and all must be
right. The name is ``x`` for ``x = 7``, and empty for an answer without a name."""

_TIME = re.compile(r"(?=.*[:m])(\d{1,2})(?::(\d{2})(?::(\d{2}))?)?\s*(?:([ap])\.?\s*m)?\.?", re.IGNORECASE)
_NUMERAL = re.compile(r"\(?([A-Za-z]*\d[^\W_]*)\)?\s*(?:_\{?\s*\(?(\w+)\)?\s*\}?|\s+\(?(?:in )?base[ -](\w+)\)?)")
_JOIN = r"\s*,?\s+(?i:and|or)\s+|\s*;\s*|,"
_RELATION = "[<>≤≥≠=∈]"
_VARIABLE = re.compile(r"[A-Za-z](?:_\w)?|\\(?:theta|alpha|lambda)")
_ANGLE_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|[a-z]|\\[a-z]+)\s*°")
_POINT = re.compile(r"^([A-Z])(?=\([^()]*,)")
_MATRIX = re.compile(r"\\begin\{pmatrix\}((?:(?!\\begin).)*)\\end\{pmatrix\}", re.DOTALL)
_ROW_END = re.compile(r"\\\\(?:\s*\[-?[\d.]+\s*[a-z]{2}\])?")
_UNIT_AT_END = re.compile(
    r"""(.*?[\w})π]) (?:\s+|(?=°)|(?<=[})]))
    ( (?:(?:square|cubic|sq)[ ])? [A-Za-z°]+ (?:\s*/\s*[A-Za-z]+|[ ]per[ ][a-z]+)? (?:\^?\{?[23]\}?)? )""",
    re.VERBOSE,
)
_MIRRORED = str.maketrans(">≥<≤", "<≤>≥")


def parse(text: str) -> Parsed:
    """Returns the typed value of a text in canonical spelling.

    >>> parse("x = 7").name, parse("x^2 = 49").values, parse("(1, 2]").values
    ('x', (Relation(sides=('x^2', '49'), signs='='),), (Interval(brackets='(]', items=('1', '2'), name=''),))
    """
    text = _POINT.sub(r"\1=", unbracketed(text))
    value = _first(text, _NOTATIONS)
    if value is None:
        sides = split(text, "[=∈]")
        for left, *others in (sides, [sides[-1], *sides[:-1]]):  # x = 7, 7 = x
            if others and _is_name(left) and not any(left.lstrip("\\") in symbols(side) for side in others):
                return Parsed(tuple(("∈" in text and _interval(side)) or _value(side) for side in others), left)
        if not symbols(text):
            return Parsed(tuple(map(_value, sides)), "")
        value = _value(text)
    return Parsed((value,), value.name if isinstance(value, Interval) else "")


def _value(text: str) -> Value:
    return _first(text, (*_NOTATIONS, *_FORMS)) or Words(text)


def _first(text: str, readers: tuple[Callable[[str], Value | None], ...]) -> Value | None:
    return next((value for value in (read(text) for read in readers) if value is not None), None)


def _is_name(text: str) -> bool:
    """Returns whether a text is the name of a value, such as x, or (x, y) for a point."""
    names = split(text[1:-1], ",") if is_bracketed(text) else [text]
    return names == sorted(names) and all(map(NAME.fullmatch, names))


def _time(text: str) -> Time | None:
    found = _TIME.fullmatch(text)
    if not found:
        return None
    hour, half = int(found[1]), (found[4] or "").lower()
    hour = hour % 12 + 12 * (half == "p") if half else hour
    return Time(hour, int(found[2] or 0), int(found[3] or 0), bool(half) or hour > 12)


def _numeral(text: str) -> Words | None:
    found = _NUMERAL.fullmatch(text)
    return Words(f"{found[1]}_{to_digits(found[2] or found[3])}") if found else None


def _number(text: str) -> Number | None:
    number = numbers.read(text, loose_units=False)
    bare, unit = ("", "") if number else _unit(text)
    value = calculated(bare)
    return number if value is None else Number(value, unit)


def _matrix(text: str) -> Matrix | None:
    found = _MATRIX.fullmatch(text)
    rows = _ROW_END.split(found[1]) if found else []
    cells = tuple(tuple(map(str.strip, row.split("&"))) for row in rows if row.strip())
    return Matrix(cells) if cells else None


def _union(text: str) -> Union | None:
    parts = tuple(_interval(part) or _bracketed(part) for part in split(text, r"\s+or\s+|∪"))
    sets = tuple(part for part in parts if isinstance(part, (Interval, Sequence)))
    return Union(sets) if len(parts) == len(sets) > 1 else None


def _list(text: str) -> Sequence | None:
    items = _items(text, _JOIN)
    named = sorted(re.split(" ?= ?", item, maxsplit=1) for item in items if re.match("[a-z] ?=", item))
    names = "".join(dict(named)) if len(dict(named)) == len(items) else ""
    return Sequence(names, tuple(value for _, value in named) if names else items) if len(items) > 1 else None


def _bracketed(text: str) -> Value | None:
    if not is_bracketed(text):
        return None
    items = _items(re.sub(r"^⦃\s*[A-Za-z]\s*[|:](?!.*=)", "⦃", text)[1:-1], ",")  # {x | x > 1} is {x > 1}
    if text[0] == "⦃":
        only = _value(items[0]) if len(items) == 1 and items[0][:1] != "⦃" else None
        if isinstance(only, Sequence):  # {(0, 1)} is a point and no interval
            return Sequence("⦃()⦄", only.items) if only.brackets == "()" else Sequence("⦃⦄", items)
        return Sequence("⦃⦄", items) if only is None or (isinstance(only, Interval) and not only.name) else only
    if text[0] + text[-1] in ("(]", "[)") or "∞" in text:
        return _interval(text)
    return Sequence(text[0] + text[-1], items) if len(items) > 1 else None


def _items(text: str, separator: str) -> tuple[str, ...]:
    """Returns the items of a list, in which ``a ± b`` stands for two."""
    parts = filter(None, split(text, separator))
    return tuple(item for part in parts for item in dict.fromkeys(part.replace("±", sign) for sign in "+-"))


def _interval(text: str) -> Interval | None:
    """Reads an interval from its brackets, or from an inequality."""
    if text[:1] not in ("(", "[") or not is_bracketed(text):
        return _inequality(text)
    ends = [end.lstrip("+") for end in split(text[1:-1], ",")]
    return Interval(text[0] + text[-1], (ends[0], ends[1]), "") if len(ends) == 2 and all(ends) else None


def _inequality(text: str) -> Interval | None:
    sides, signs = _relation(text) or (("", ""), "")
    first, last = (_VARIABLE.fullmatch(side) for side in (sides[0], sides[-1]))
    if first and not last:
        sides, signs = ("-∞", *sides), "<" + signs
    if last and not first:
        sides, signs = (*sides, "∞"), signs + "<"
    if len(sides) != 3 or not _VARIABLE.fullmatch(sides[1]) or not set(signs) <= set("<≤"):
        return None
    brackets = "(["[signs[0] == "≤"] + ")]"[signs[1] == "≤"]
    return Interval(brackets, (sides[0], sides[2].lstrip("+")), sides[1])


def _relation(text: str) -> Relation | None:
    sides, signs = split(text, _RELATION), "".join(sign[0] for sign in outside(text, _RELATION))
    if signs[:1] in (">", "≥"):
        sides, signs = sides[::-1], signs[::-1].translate(_MIRRORED)
    return Relation(tuple(sides), signs) if signs and all(sides) else None


def _expression(text: str) -> Expression | None:
    has_angle = "°" in text and _ANGLE_FUNCTION.search(text)
    bare, unit = _unit(_DEGREES.sub(r"(\1*\\pi/180)", text) if has_angle else text)
    return Expression(bare, unit) if is_readable(bare) else None


def _unit(text: str) -> tuple[str, str]:
    """Splits a quantity into the expression and its unit, which is empty where none is known."""
    found = _UNIT_AT_END.fullmatch(text)
    name = units.canonical(found[2]) if found and len(found[2]) > 1 - ("°" in text) else None
    is_known = name and set(re.split(r"[ /^]", name)) <= {*units.KNOWN, "2", "3"}
    return (unbracketed(found[1]), name) if found and name and is_known else (text, "")


_NOTATIONS = (_time, _numeral, _number, _matrix, _bracketed, _union, _list)
"""These readers come before the split at equals signs, because ``x = 1, 2`` is a list."""
_FORMS = (_inequality, _relation, _expression)
"""These readers take what is left after the split at equals signs."""
