"""Tests answers as typed values."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rewards.grading.answers import (
    Expression,
    Interval,
    Number,
    Parsed,
    Relation,
    Sequence,
    Time,
    Union,
    Words,
    parse,
)

TABLE = (
    ("7", Number(Fraction(7))),
    ("12 cm", Number(Fraction(12), "cm")),
    ("3:45 p.m.", Time(15, 45, 0, True)),
    ("3:45", Time(3, 45, 0, False)),
    ("101_2", Words("101_2")),
    ("(B)", Expression("B", "")),
    ("(1,2]", Interval("(]", ("1", "2"), "")),
    ("x > 2", Interval("()", ("2", "∞"), "x")),
    ("1 < x ≤ 4", Interval("(]", ("1", "4"), "x")),
    ("(-∞,1)∪[2,3)", Union((Interval("()", ("-∞", "1"), ""), Interval("[)", ("2", "3"), "")))),
    ("(1,2)", Sequence("()", ("1", "2"))),
    ("1, 2", Sequence("", ("1", "2"))),
    ("1 ± x", Sequence("", ("1 + x", "1 - x"))),
    ("⦃1,2⦄", Sequence("⦃⦄", ("1", "2"))),
    ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", Sequence("2 2", ("1", "2", "3", "4"))),
    ("x^2 = 49", Relation(("x^2", "49"), "=")),
    ("x+1", Expression("x+1", "")),
    ("\\sin 30°", Expression("\\sin (30*\\pi/180)", "")),
    ("2\\tan x°", Expression("2\\tan (x*\\pi/180)", "")),
    ("⦃x | x > 2⦄", Interval("()", ("2", "∞"), "x")),
    ("⦃(0,1)⦄", Sequence("⦃()⦄", ("0", "1"))),
    ("y = 4, x = 3", Sequence("xy", ("3", "4"))),
    ("(x, y) = (2, 3)", Sequence("()", ("2", "3"))),
)


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_a_text_has_one_type(text, expected):
    assert parse(text).values == (expected,)


@pytest.mark.parametrize(
    ("text", "name", "num_values"),
    [("x = 7", "x", 1), ("7 = x", "x", 1), ("n = 2 + 5 = 7", "n", 2), ("2 + 5 = 7", "", 2)],
)
def test_a_solved_equation_has_a_name_and_values(text, name, num_values):
    parsed = parse(text)
    assert isinstance(parsed, Parsed)
    assert parsed.name == name
    assert parsed.values == (Number(Fraction(7)),) * num_values
