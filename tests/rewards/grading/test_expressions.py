"""Which expressions sympy reads as they are meant, their variables, and how they are written for it."""

from __future__ import annotations

import pytest

from rewards.grading.expressions import DEEPEST, LONGEST, has_words, in_radians, is_readable, latex, symbols


@pytest.mark.parametrize(
    "text", ["x+1", "\\frac{1}{2}", "2xy", "\\sin x", "ln 2", "n!", "a_1", "(" * DEEPEST + "x" + ")" * DEEPEST]
)
def test_formulas_are_readable(text):
    assert is_readable(text)


@pytest.mark.parametrize(
    "text",
    ["1, 2", "three", "x or y", "50%", "3:4", "9^{9^9}", "10000!", "2^{99999}", "x?", "1 2", "45°", "\\text{cm}",
     "(" * (DEEPEST + 1) + "x" + ")" * (DEEPEST + 1), "x" + "+x" * LONGEST],
)  # fmt: skip
def test_words_lists_and_towers_of_powers_are_not(text):
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
    [("\\sin 30°", "\\sin (30*\\pi/180)"), ("45°", "45°"), ("\\tan x°", "\\tan (x*\\pi/180)")],
)
def test_degrees_of_angles_become_radians(text, expected):
    assert in_radians(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ln 2", "\\ln 2"), ("0.25x", "{(\\frac{025}{100})}x"), ("3+4i", "3+4\\sqrt{-1}"), ("\\pi", "\\pi"),
     ("a_i", "a_{i}"), ("x≥2", "x\\geq 2"), ("\\sin x", "\\sin x"), ("2*3", "2\\cdot 3")],
)  # fmt: skip
def test_latex_for_sympy_is_exact(text, expected):
    assert latex(text) == expected
