"""Tests brackets and variables of expressions, which expressions sympy reads correctly, and how they are written."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rewards.grading.expressions import (
    DEEPEST,
    MAX_LENGTH,
    calculated,
    depth,
    has_words,
    is_bracketed,
    is_readable,
    latex,
    split,
    symbols,
    unbracketed,
)


@pytest.mark.parametrize(
    "text",
    [
        "x+1",
        "\\frac{1}{2}",
        "2xy",
        "\\sin x",
        "ln 2",
        "n!",
        "a_1",
    ],
)
def test_formulas_are_readable(text):
    assert is_readable(text)


@pytest.mark.parametrize(
    "text",
    ["1, 2", "three", "x or y", "50%", "3:4", "9^{9^9}", "10000!", "2^{99999}", "x?", "1 2", "45°", "\\text{cm}",
     "x" + "+x" * MAX_LENGTH],
)  # fmt: skip
def test_words_lists_and_towers_of_powers_are_not_readable(text):
    assert not is_readable(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2x+y", {"x", "y"}), ("\\sin \\theta", {"theta"}), ("e^{i\\pi}", set()), ("ln x", {"x"}), ("12", set()),
     ("\\begin{pmatrix}a\\end{pmatrix}", {"a"})],
)  # fmt: skip
def test_symbols_are_the_variables(text, expected):
    assert symbols(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("xy", True), ("x y", False), ("\\frac{1}{2}", False), ("a cm", True)])
def test_two_letters_together_are_a_word(text, expected):
    assert has_words(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ln 2", "\\ln 2"), ("0.25x", "{(\\frac{025}{100})}x"), ("\\pi", "\\pi"),
     ("a_i", "a_{i}"), ("x≥2", "x\\geq 2"), ("\\sin x", "\\sin x"), ("2*3", "2\\cdot 3")],
)  # fmt: skip
def test_latex_for_sympy_is_exact(text, expected):
    assert latex(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("x", 0), ("(1)", 1), ("((a)[b])", 2), ("(0,1]", 1), ("(", None), (")(", 0), ("{)", None),
     ("(" * DEEPEST + ")" * DEEPEST, DEEPEST), ("(" * (DEEPEST + 1) + ")" * (DEEPEST + 1), None)],
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
def test_outer_brackets_are_removed_unless_they_contain_a_list(text, expected):
    assert unbracketed(text) == expected


CALCULATIONS = (
    ("2+3*4", 14),
    ("(2+3)*4", 20),
    ("7/2", Fraction(7, 2)),
    ("-2^2", -4),
    ("2^{-3}", Fraction(1, 8)),
    ("2^3^2", 512),
    ("0.1+0.2", Fraction(3, 10)),
    (".5*4.", 2),
    ("1,000 - 1", 999),
    ("007", 7),
)


@pytest.mark.parametrize(("text", "expected"), CALCULATIONS)
def test_a_calculation_has_its_exact_value(text, expected):
    assert calculated(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x+1", "2+", "1/0", "9^{9^9}", "9^{2000}*9^{2000}", "2^{0.5}", "(((", "1 2", "2 ** ", "1" * 1400]
)
def test_a_text_that_is_no_calculation_has_no_value(text):
    assert calculated(text) is None
