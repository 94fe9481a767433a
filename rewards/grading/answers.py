"""Mathematical answers are parsed into typed values and compared; one table says how values of two types compare."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from rewards.grading import expressions, numbers, units
from rewards.grading.expressions import calculated, is_bracketed, outside, split, symbols, unbracketed
from rewards.grading.numbers import NAME, Number, to_digits
from rewards.grading.text import canonical

Time = NamedTuple("Time", [("hour", int), ("minute", int), ("second", int), ("is_half_known", bool)])
"""A time of day. The half of the day is known by "p.m.", or by an hour above 12."""
Interval = NamedTuple("Interval", [("brackets", str), ("items", tuple[str, str]), ("name", str)])
"""An interval with its two ends. It has the name of its variable where it was written as an inequality."""
Sequence = NamedTuple("Sequence", [("brackets", str), ("items", tuple[str, ...])])
"""The items of a list, which has no brackets, of a tuple, or of a set, whose brackets are ``⦃⦄``. A set of one point
has the brackets ``⦃()⦄``, the values of ``x = 3, y = 4`` have their names for brackets, ``xy``, and the cells of a
matrix have the lengths of its rows, ``2 2``."""
Union = NamedTuple("Union", [("parts", tuple["Interval | Sequence", ...])])
"""Intervals and sets that together are one set."""
Relation = NamedTuple("Relation", [("sides", tuple[str, ...]), ("signs", str)])
"""The sides of an equation, or of an inequality from its smallest side on, and the signs between them."""
Expression = NamedTuple("Expression", [("text", str), ("unit", str)])
"""A formula that sympy compares, with its unit where one is known."""
Words = NamedTuple("Words", [("text", str)])
"""A text that is compared by its spelling, such as a name, or a numeral with its base."""
Value = Number | Time | Interval | Union | Sequence | Relation | Expression | Words

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
_MOST_ITEMS = 64
"""Longer lists whose order does not count are not compared."""
_SYMBOL = re.compile(r"[A-Za-z]|[A-Z]{2}")
"""This matches a variable, or a segment that is named by its ends, in either order."""
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
    if not (found := _TIME.fullmatch(text)):
        return None
    hour, half = int(found[1]), (found[4] or "").lower()
    hour = hour % 12 + 12 * (half == "p") if half else hour
    return Time(hour, int(found[2] or 0), int(found[3] or 0), bool(half) or hour > 12)


def _numeral(text: str) -> Words | None:
    found = _NUMERAL.fullmatch(text)
    return Words(f"{found[1]}_{to_digits(found[2] or found[3])}") if found else None


def _number(text: str) -> Number | None:
    number = numbers.read(to_digits(text), loose_units=False)
    bare, unit = ("", "") if number else _unit(text)
    value = calculated(bare)
    return number if value is None else Number(value, unit)


def _matrix(text: str) -> Sequence | None:
    found = _MATRIX.fullmatch(text)
    rows = [row.split("&") for row in (_ROW_END.split(found[1]) if found else []) if row.strip()]
    cells = tuple(cell.strip() for row in rows for cell in row)
    return Sequence(" ".join(str(len(row)) for row in rows), cells) if rows else None


def _union(text: str) -> Union | None:
    parts = tuple(_interval(part) or _bracketed(part) for part in split(text, r"\s+or\s+|∪"))
    sets = tuple(part for part in parts if isinstance(part, (Interval, Sequence)))
    return Union(sets) if len(parts) == len(sets) > 1 else None


def _list(text: str) -> Sequence | None:
    found = _sequence("", text, _JOIN)
    return found if len(found.items) > 1 else None


def _bracketed(text: str) -> Value | None:
    if not is_bracketed(text):
        return None
    inner = re.sub(r"^⦃\s*[A-Za-z]\s*[|:](?!.*=)", "⦃", text)[1:-1]  # {x | x > 1} is {x > 1}
    found = _sequence(text[0] + text[-1], inner, ",")
    if text[0] == "⦃":
        only = _value(found.items[0]) if len(found.items) == 1 and found.items[0][:1] != "⦃" else None
        if isinstance(only, Sequence):  # {(0, 1)} is a point and no interval
            return Sequence("⦃()⦄", only.items) if only.brackets == "()" else found
        return found if only is None or (isinstance(only, Interval) and not only.name) else only
    if found.brackets in ("(]", "[)") or "∞" in text:
        return _interval(text)
    return found if len(found.items) > 1 else None


def _sequence(brackets: str, text: str, separator: str) -> Sequence:
    """Returns the items of a text, in which ``a ± b`` stands for two."""
    parts = filter(None, split(text, separator))
    items = [item for part in parts for item in dict.fromkeys(part.replace("±", sign) for sign in "+-")]
    named = {item[0]: re.sub("^[a-z] ?= ?", "", item) for item in sorted(items) if re.match("[a-z] ?=", item)}
    has_names = brackets in ("", "⦃⦄") and len(named) == len(items) > 1
    return Sequence("".join(named), tuple(named.values())) if has_names else Sequence(brackets, tuple(items))


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
    return Expression(bare, unit) if expressions.is_readable(bare) else None


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


def is_gradable(gold: str) -> bool:
    """Returns whether a gold can be compared: it is not empty or too long, and its brackets close."""
    text = canonical(gold)
    return bool(text) and len(text) <= expressions.MAX_LENGTH and expressions.depth(text) is not None


def same(gold: str, answer: str, verify: Callable[[str, str], bool], any_form: bool = False) -> bool:
    """Returns whether an answer is the gold; both may be LaTeX or plain text.

    Only for what cheaper comparisons leave open, `verify` compares two expressions or two relations. With `any_form`,
    a point may be given by its named coordinates, and they by a point.
    """
    is_read = len(answer) <= expressions.MAX_LENGTH and is_gradable(answer) and "\ufffd" not in answer
    return is_read and _Comparison(verify, any_form).texts(canonical(gold), canonical(answer))


@dataclass(frozen=True)
class _Comparison:
    verify: Callable[[str, str], bool]
    any_form: bool

    def texts(self, gold: str, answer: str) -> bool:
        if _key(gold) == _key(answer):
            return True
        ours, theirs = parse(gold), parse(answer)
        has_relation = any(isinstance(value, Relation) for value in ours.values + theirs.values)
        if not has_relation and _names_agree(ours, theirs):
            return all(self.values(ours.values[-1], value) for value in theirs.values)
        relations = _relations(ours)
        return len(relations) == len(_relations(theirs)) > 0 and all(map(self.formulas, relations, _relations(theirs)))

    def values(self, gold: Value, answer: Value) -> bool:
        rule = _RULES.get((type(gold), type(answer)))
        return gold == answer or (rule is not None and rule(self, gold, answer))

    def all_texts(self, gold: tuple[str, ...], answer: tuple[str, ...]) -> bool:
        return len(gold) == len(answer) and all(map(self.texts, gold, answer))

    def formulas(self, gold: str, answer: str) -> bool:
        return symbols(gold) == symbols(answer) and self.verify(expressions.latex(gold), expressions.latex(answer))

    def expressions(self, gold: Number | Expression, answer: Number | Expression) -> bool:
        ours, theirs = (side.text if isinstance(side, Expression) else str(side.value) for side in (gold, answer))
        if units.conflict(gold.unit, answer.unit) or any(isinstance(n, Number) and n.percent for n in (gold, answer)):
            return False
        return _key(ours) == _key(theirs) or self.formulas(ours, theirs)

    def intervals(self, gold: Interval | Sequence, answer: Interval | Sequence) -> bool:
        names = {side.name for side in (gold, answer) if isinstance(side, Interval)} - {""}
        may_be_point = isinstance(gold, Sequence) and gold.brackets == "()"
        if gold.brackets != answer.brackets or len(names) > 1 or (names and may_be_point):
            return False
        return self.all_texts(gold.items, answer.items)

    def sequences(self, gold: Sequence, answer: Sequence) -> bool:
        ours, theirs = (side.brackets.strip("⦃⦄") for side in (gold, answer))
        names = (ours + theirs).replace("()", "", 1)  # of the coordinates of a point
        if ours != theirs and not (self.any_form and len(names) < len(ours + theirs) and names.isalpha()):
            return False
        if ours or theirs or "…" in gold.items:
            return self.all_texts(gold.items, answer.items)
        return _match(gold.items, answer.items, self.texts)


_RULES: dict[tuple[type, type], Callable[[_Comparison, Any, Any], bool]] = {
    (Number, Number): lambda _, gold, answer: numbers.same(gold, answer),
    (Words, Words): lambda _, gold, answer: _key(gold.text) == _key(answer.text),
    **dict.fromkeys(((Number, Expression), (Expression, Number), (Expression, Expression)), _Comparison.expressions),
    **dict.fromkeys(((Interval, Interval), (Interval, Sequence), (Sequence, Interval)), _Comparison.intervals),
    (Union, Union): lambda comparison, gold, answer: _match(gold.parts, answer.parts, comparison.values),
    (Sequence, Sequence): _Comparison.sequences,
}
"""A gold of the first type and an answer of the second are compared by a rule; without one they must be the same."""


def _key(text: str) -> str:
    """Returns a key that is the same for two spellings of one answer."""
    if not expressions.has_words(text):
        return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    text = re.sub(r"(?:an?|the) (?=[a-z]{3})", "", re.sub(r"\s+", " ", text.casefold()), count=1)
    return text.removesuffix("s") if re.fullmatch(r"[a-z' -]{4,}", text) else text


def _names_agree(gold: Parsed, answer: Parsed) -> bool:
    ours, theirs = gold.name, answer.name
    if not ours or not theirs:
        return not theirs or theirs not in symbols(" ".join(v.text for v in gold.values if isinstance(v, Expression)))
    if _SYMBOL.fullmatch(ours) and _SYMBOL.fullmatch(theirs):
        return sorted(ours) == sorted(theirs)
    of_x = re.fullmatch(r"y?[a-z]\(x\)y?", ours + theirs)  # y = 2x and f(x) = 2x
    return _key(ours) == _key(theirs) or bool(of_x or re.search("[a-z]{3}", ours + theirs))


def _relations(side: Parsed) -> list[str]:
    """Returns the equations and inequalities of an answer, such as a<b and b<c of a<b<c, or y=2x+3, or none."""
    value = side.values[0]
    if isinstance(value, Expression) and side.name and symbols(value.text):
        return [f"{side.name}={value.text}"]
    sides, signs = value if isinstance(value, Relation) else ((), "")
    return ["".join(parts) for parts in zip(sides, signs, sides[1:], strict=False)]


def _match(ours: Collection[Any], theirs: Collection[Any], equal: Callable[[Any, Any], bool]) -> bool:
    """Returns whether two lists hold the same items in any order."""
    is_short = max(len(ours), len(theirs)) <= _MOST_ITEMS
    has_all = is_short and all(any(equal(one, other) for other in theirs) for one in ours)
    return has_all and all(any(equal(one, other) for one in ours) for other in theirs)
