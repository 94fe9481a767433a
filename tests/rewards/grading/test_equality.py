"""Tests pairs of equal and of different answers without sympy."""

from __future__ import annotations

import pytest

from rewards.grading.answers import is_gradable, same

SAME = (
    ("0.5", "\\frac{1}{2}"),
    ("x = 7", "7"),
    ("AB = 5", "BA = 5"),
    ("1, 2", "2, 1"),
    ("\\{1,2\\}", "1, 2"),
    ("1, 2, 1.0", "2, 1"),
    ("\\{x=3, y=4\\}", "y = 4, x = 3"),
    ("1 \\pm 2", "3, -1"),
    ("(2,\\infty)", "x > 2"),
    ("[1,2)", "1 \\le x < 2"),
    ("(0,1)", "\\{(0,1)\\}"),
    ("0 < x < 1", "\\{x \\mid 0 < x < 1\\}"),
    ("1", "\\{1\\}"),
    ("(-\\infty,1)\\cup(2,3)", "(2,3)\\cup(-\\infty,1)"),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{bmatrix}1.0\\\\2\\end{bmatrix}"),
    ("3:45 \\text{ p.m.}", "15:45 pm"),
    ("1011_2", "1011_{two}"),
    ("\\text{Monday}", "monday"),
    ("(B)", "B"),
)
DIFFERENT = (
    ("0", "x^2-5x+6=0"),
    ("x = 5", "y = 5"),
    ("x = 5", "AB = 5"),
    ("25^\\circ", "x^2+y^2=25"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "1, 2"),
    ("x > 2", "y > 2"),
    ("1, 2", "1, 2, 3"),
    ("1, 1, 2", "1, 2, 3"),
    ("1, 2", "\\emptyset"),
    ("1011_2", "1011_3"),
    ("3:45", "3:54"),
    ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("\\text{even}", "odd"),
    ("2", ""),
    ("2", "(2"),
    ("1, 2, \\ldots, n", "\\ldots, 1, 2, n"),
    ("0 < x < 1", "\\{(0,1)\\}"),
    ("x > 0", "\\{(0,\\infty)\\}"),
    ("[0,1)", "\\{[0,1)\\}"),
    ("0 \\le x \\le 1", "\\{[0,1]\\}"),
    ("(0,1)\\cup(2,3)", "\\{(0,1)\\}\\cup(2,3)"),
    ("\\{(0,1)\\}", "(0,1),(1,0)"),
    ("\\{(0,1)\\}", "\\{0,1\\}"),
    ("1", "\\{\\{1\\}\\}"),
    ("\\{x=3,y=4\\}", "\\{4,3\\}"),
    ("\\{x=3,y=4\\}", "\\{x=4,y=3\\}"),
    ("x=3, y=4", "x=3, z=4"),
)


def never(gold: str, answer: str) -> bool:
    """Replaces sympy by a function that finds no expressions equal."""
    return False


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_an_equal_answer_in_another_form_is_right_in_either_order(gold, answer):
    assert same(gold, answer, never)
    assert same(answer, gold, never)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_a_different_answer_is_wrong_in_either_order(gold, answer):
    assert not same(gold, answer, never)
    assert not answer or not same(answer, gold, never)


@pytest.mark.parametrize(("gold", "answer"), [("(3,4)", "x=3, y=4"), ("(3,4)", "y=4 and x=3"), ("x=3, y=4", "(3,4)")])
def test_named_coordinates_are_a_point_only_if_any_form_is_allowed(gold, answer):
    assert same(gold, answer, never, any_form=True)
    assert not same(gold, answer, never)


def test_sympy_is_asked_only_about_expressions_of_the_same_variables():
    asked: list[tuple[str, str]] = []
    same("x+1", "1+x", lambda *pair: bool(asked.append(pair)))
    same("x+1", "y+1", lambda *pair: bool(asked.append(pair)))
    assert asked == [("x+1", "1+x")]


@pytest.mark.parametrize(("gold", "expected"), [("x", True), ("", False), ("(x", False), ("x" * 1001, False)])
def test_a_usable_gold_is_short_and_closed(gold, expected):
    assert is_gradable(gold) is expected
