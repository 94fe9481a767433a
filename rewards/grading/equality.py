"""A mathematical answer is compared with the gold; one table says how values of two types compare."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

from rewards.grading import answers, numbers, units
from rewards.grading.answers import Expression, Interval, Matrix, Relation, Sequence, Union, Value, Words, parse
from rewards.grading.expressions import LONGEST, depth, has_words, latex, symbols
from rewards.grading.numbers import Number
from rewards.grading.text import canonical

_MOST_ITEMS = 64
"""Longer lists whose order does not count are not compared."""
_SYMBOL = re.compile(r"[A-Za-z]|[A-Z]{2}")
"""This matches a variable, or a segment that is named by its ends, in either order."""


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

    def all_texts(self, gold: Items[str], answer: Items[str]) -> bool:
        return len(gold) == len(answer) and all(map(self.texts, gold, answer))

    def formulas(self, gold: str, answer: str) -> bool:
        return symbols(gold) == symbols(answer) and self.verify(latex(gold), latex(answer))

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

    def matrices(self, gold: Matrix, answer: Matrix) -> bool:
        return len(gold.rows) == len(answer.rows) and all(map(self.all_texts, gold.rows, answer.rows))

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
    (Matrix, Matrix): _Comparison.matrices,
    (Sequence, Sequence): _Comparison.sequences,
}
"""A gold of the first type and an answer of the second are compared by a rule; without one they must be the same."""


def _key(text: str) -> str:
    """Returns a key that is the same for two spellings of one answer."""
    if not has_words(text):
        return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    text = re.sub(r"(?:an?|the) (?=[a-z]{3})", "", re.sub(r"\s+", " ", text.casefold()), count=1)
    return text.removesuffix("s") if re.fullmatch(r"[a-z' -]{4,}", text) else text


def _names_agree(gold: answers.Parsed, answer: answers.Parsed) -> bool:
    ours, theirs = gold.name, answer.name
    if not ours or not theirs:
        return not theirs or theirs not in symbols(" ".join(v.text for v in gold.values if isinstance(v, Expression)))
    if _SYMBOL.fullmatch(ours) and _SYMBOL.fullmatch(theirs):
        return sorted(ours) == sorted(theirs)
    of_x = re.fullmatch(r"y?[a-z]\(x\)y?", ours + theirs)  # y = 2x and f(x) = 2x
    return _key(ours) == _key(theirs) or bool(of_x or re.search("[a-z]{3}", ours + theirs))


def _relations(side: answers.Parsed) -> list[str]:
    """Returns the equations and inequalities of an answer, such as a<b and b<c of a<b<c, or y=2x+3, or none."""
    value = side.values[0]
    if isinstance(value, Expression) and side.name and symbols(value.text):
        return [f"{side.name}={value.text}"]
    if not isinstance(value, Relation):
        return []
    return [
        f"{left}{sign}{right}" for left, sign, right in zip(value.sides, value.signs, value.sides[1:], strict=False)
    ]


def _match(ours: Collection[Any], theirs: Collection[Any], equal: Callable[[Any, Any], bool]) -> bool:
    """Returns whether two lists hold the same items in any order."""
    is_short = max(len(ours), len(theirs)) <= _MOST_ITEMS
    has_all = is_short and all(any(equal(one, other) for other in theirs) for one in ours)
    return has_all and all(any(equal(one, other) for one in ours) for other in theirs)
