"""Nesting of brackets, and what stands between them."""

from __future__ import annotations

import pytest

from rewards.grading.brackets import DEEPEST, depth, is_bracketed, split, without_brackets


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("x", 0), ("(1)", 1), ("((a)[b])", 2), ("(0,1]", 1), ("(", None), (")(", 0), ("{)", None),
     ("(" * DEEPEST + ")" * DEEPEST, DEEPEST), ("(" * 51 + ")" * 51, None)],
)  # fmt: skip
def test_depth_counts_brackets_that_close(text, expected):
    assert depth(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("(1)", True), ("(1)(2)", False), ("(1", False), ("1", False), ("[1,2)", True), ("", False)]
)
def test_a_text_is_bracketed_if_its_first_bracket_closes_last(text, expected):
    assert is_bracketed(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1,2", ["1", "2"]), ("(1,2),3", ["(1,2)", "3"]), ("f{a,b}", ["f{a,b}"]), ("", [""]), (",", ["", ""])],
)
def test_only_separators_outside_of_brackets_split(text, expected):
    assert split(text, ",") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("((2))", "2"),
        ("{x}", "x"),
        ("(1,2)", "(1,2)"),
        ("(B)", "B"),
        ("(1)(2)", "(1)(2)"),
        ("()", "()"),
        ("[1]", "[1]"),
    ],
)
def test_outer_brackets_go_unless_they_hold_a_list(text, expected):
    assert without_brackets(text) == expected
