"""A mathematical answer is compared with the gold; one table says how values of two types compare."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import Any

from rewards.grading import answers, numbers, units
from rewards.grading.answers import Expression, Interval, Matrix, Parsed, Relation, Sequence, Union, Value, parse
from rewards.grading.brackets import depth
from rewards.grading.expressions import LONGEST, has_words, latex, symbols
from rewards.grading.latex import canonical
from rewards.grading.numbers import Number

_MOST_ITEMS = 64
"""Longer lists and larger matrices are not compared."""
_DEEPEST = 8
"""Lists that are nested more deeply are not compared."""
_SYMBOL = re.compile(r"[A-Za-z]|[A-Z]{2}")
"""This matches a variable, or a segment that is named by its ends, in either order."""
_ARTICLE = re.compile(r"(?:an?|the) (?=[a-z]{3})", re.IGNORECASE)


def is_usable(gold: str) -> bool:
    """Returns whether a gold can be compared: it is not empty or too long, and its brackets close."""
    text = canonical(gold)
    return bool(text) and len(text) <= LONGEST and depth(text) is not None


def same(gold: str, answer: str, verify: Callable[[str, str], bool], any_form: bool = False) -> bool:
    """Returns whether an answer is the gold; both may be LaTeX or plain text.

    Only for what cheaper comparisons leave open, `verify` compares two expressions or two relations. With `any_form`,
    a point may be given by its named coordinates, and they by a point.
    """
    is_read = len(answer) <= LONGEST and is_usable(answer) and "\ufffd" not in answer
    return is_read and _Comparison(verify, any_form).texts(canonical(gold), canonical(answer))


@dataclass(frozen=True)
class _Comparison:
    verify: Callable[[str, str], bool]
    any_form: bool
    level: int = 0

    def texts(self, gold: str, answer: str) -> bool:
        if _key(gold) == _key(answer):
            return True
        ours, theirs = parse(gold), parse(answer)
        if _names_agree(ours, theirs):
            if _key(ours.text) == _key(theirs.text):
                return True
            if not any(isinstance(value, Relation) for value in ours.values + theirs.values):
                return all(self.values(ours.values[-1], value) for value in theirs.values)
        return self.relations(_as_relation(ours), _as_relation(theirs))

    def values(self, gold: Value, answer: Value) -> bool:
        rule = _RULES.get((type(gold), type(answer)))
        return gold == answer or (rule is not None and rule(self, gold, answer))

    def parts(self, gold: str, answer: str) -> bool:
        return self.level < _DEEPEST and replace(self, level=self.level + 1).texts(gold, answer)

    def all_parts(self, gold: Items[str], answer: Items[str]) -> bool:
        return len(gold) == len(answer) <= _MOST_ITEMS and all(map(self.parts, gold, answer))

    def formulas(self, gold: str, answer: str) -> bool:
        return symbols(gold) == symbols(answer) and self.verify(latex(gold), latex(answer))

    def relations(self, gold: Relation | None, answer: Relation | None) -> bool:
        if gold is None or answer is None:
            return False
        if tuple(answers.MIRRORED[sign] for sign in answer.signs[::-1]) == gold.signs != answer.signs:
            answer = Relation(answer.sides[::-1], gold.signs)
        return gold.signs == answer.signs and all(map(self.formulas, _pairs(gold), _pairs(answer)))

    def expressions(self, gold: Number | Expression, answer: Number | Expression) -> bool:
        ours, theirs = _formula(gold), _formula(answer)
        is_possible = ours and theirs and not units.conflict(gold.unit, answer.unit)
        return bool(is_possible) and (_key(ours) == _key(theirs) or self.formulas(ours, theirs))

    def intervals(self, gold: Interval, answer: Interval) -> bool:
        is_alike = gold.brackets == answer.brackets and len({gold.name, answer.name} - {""}) <= 1
        return is_alike and self.all_parts((gold.low, gold.high), (answer.low, answer.high))

    def interval_as_written(self, gold: Interval, answer: Sequence) -> bool:
        return gold.brackets == answer.brackets and self.all_parts((gold.low, gold.high), answer.items)

    def closed_interval(self, gold: Sequence, answer: Interval) -> bool:
        is_interval = gold.brackets == "[]" or not answer.name  # (1, 2) may be a point where the answer is 1 < x < 2
        return is_interval and self.interval_as_written(answer, gold)

    def matrices(self, gold: Matrix, answer: Matrix) -> bool:
        shapes, cells = zip(*((list(map(len, rows)), sum(rows, ())) for (rows,) in (gold, answer)), strict=True)
        return shapes[0] == shapes[1] and self.all_parts(*cells)

    def sequences(self, gold: Sequence, answer: Sequence) -> bool:
        for other_form in (_as_point,) * self.any_form + (_only_item,):
            if gold.brackets != answer.brackets:
                gold, answer = other_form(gold), other_form(answer)
        if {gold.brackets, answer.brackets} <= {"", "⦃⦄"} and "…" not in gold.items:
            is_alike = bool(_coordinates(gold)) == bool(_coordinates(answer))
            return is_alike and _match(_distinct(gold), _distinct(answer), self.parts)
        return gold.brackets == answer.brackets and self.all_parts(gold.items, answer.items)


_RULES: dict[tuple[type, type], Callable[[_Comparison, Any, Any], bool]] = {
    (Number, Number): lambda _, gold, answer: numbers.same(gold, answer),
    **dict.fromkeys(((Number, Expression), (Expression, Number), (Expression, Expression)), _Comparison.expressions),
    (Interval, Interval): _Comparison.intervals,
    (Interval, Sequence): _Comparison.interval_as_written,
    (Sequence, Interval): _Comparison.closed_interval,
    (Union, Union): lambda comparison, gold, answer: _match(gold.parts, answer.parts, comparison.values),
    (Matrix, Matrix): _Comparison.matrices,
    (Sequence, Sequence): _Comparison.sequences,
}
"""A gold of the first type and an answer of the second are compared by a rule; without one they must be the same."""


def _key(text: str) -> str:
    """Returns a key that is the same for two spellings of one answer."""
    text = text.rstrip(".")
    if not has_words(text):
        return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    text = _ARTICLE.sub("", re.sub(r"\s+", " ", text), count=1).casefold()
    return text.removesuffix("s") if re.fullmatch(r"[a-z' -]{4,}", text) else text


def _names_agree(gold: Parsed, answer: Parsed) -> bool:
    ours, theirs = gold.name, answer.name
    if not ours or not theirs:
        return not theirs or theirs not in symbols(" ".join(v.text for v in gold.values if isinstance(v, Expression)))
    if _SYMBOL.fullmatch(ours) and _SYMBOL.fullmatch(theirs):
        return sorted(ours) == sorted(theirs)
    of_x = re.fullmatch(r"y?[a-z]\(x\)y?", ours + theirs)  # y = 2x and f(x) = 2x
    return _key(ours) == _key(theirs) or bool(of_x or re.search("[a-z]{3}", ours + theirs))


def _as_relation(side: Parsed) -> Relation | None:
    """Returns a relation, and ``y = 2x + 3`` as a relation too, or None."""
    value = side.values[0]
    if isinstance(value, Expression) and side.name and symbols(value.text):
        return Relation((side.name, value.text), ("=",))
    return value if isinstance(value, Relation) else None


def _pairs(relation: Relation) -> list[str]:
    sides, signs = relation
    return [f"{left}{sign}{right}" for left, sign, right in zip(sides, signs, sides[1:], strict=False)]


def _formula(value: Number | Expression) -> str:
    if isinstance(value, Expression):
        return value.text
    top, bottom = value.value.as_integer_ratio()
    return "" if value.percent else str(top) if bottom == 1 else f"\\frac{{{top}}}{{{bottom}}}"


def _as_point(sequence: Sequence) -> Sequence:
    """Turns ``x = 3, y = 4`` into ``(3, 4)``."""
    values = None if sequence.brackets else _coordinates(sequence)
    return Sequence("()", values) if values else sequence


def _only_item(sequence: Sequence) -> Sequence:
    """Turns a set with one point, as of the solutions of two equations, into the point."""
    value = parse(sequence.items[0]).values[0] if sequence.brackets == "⦃⦄" and len(sequence.items) == 1 else None
    return value if isinstance(value, Sequence) and value.brackets == "()" else sequence


def _coordinates(sequence: Sequence) -> tuple[str, ...] | None:
    """Returns the values of items with different names, sorted by name, or None if there are other items."""
    named = sorted(tuple(map(str.strip, item.split("=", 1))) for item in sequence.items if re.match("[a-z] ?=", item))
    distinct = len({name for name, _ in named}) == len(sequence.items) > 1
    return tuple(value for _, value in named) if distinct else None


def _distinct(sequence: Sequence) -> tuple[str, ...]:
    return tuple({_key(item): item for item in sequence.items}.values())


def _match(ours: Items[Any], theirs: Items[Any], equal: Callable[[Any, Any], bool]) -> bool:
    """Returns whether two lists hold the same items in any order."""
    if not len(ours) == len(theirs) <= _MOST_ITEMS:
        return False
    left = list(theirs)
    for item in ours:
        place = next((place for place, other in enumerate(left) if equal(item, other)), None)
        if place is None:
            return False
        del left[place]
    return True
