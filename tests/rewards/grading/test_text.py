"""Tests that characters of Unicode, LaTeX, Markdown and keyboards get one spelling."""

from __future__ import annotations

import pytest

from rewards.grading.text import MAX_CHARACTERS, SEPARATOR, UNDECIDED, canonical, clean, strip_wrapping
from rewards.reply import MASK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("１２", "12"),
        ("٣", "3"),
        ("5²", "5^{2}"),
        ("3½", "3 1/2"),
        ("x₁₀", "x_{10}"),
        ("√3", "\\sqrt{3}"),
        ("∛(x+1)", "\\sqrt[3]{x+1}"),
        ("−1 × 2", "-1 * 2"),
        ("x ≤ π", "x ≤ \\pi "),
        ("50º", "50°"),
        ("a\u200bb\x00c", "abc"),
        ("“12”", '"12"'),
        ("a\r\nb", "a\n\nb"),
        ("12<|eot_id|>3", f"12{SEPARATOR}3"),
        (f"1{MASK}2", f"1{UNDECIDED}2"),
        ("\x08oxed{3}", "\\boxed{3}"),
        ("a" * (MAX_CHARACTERS + 5), "a" * MAX_CHARACTERS),
    ],
)
def test_characters_of_one_meaning_become_one(text, expected):
    assert clean(text) == expected


TABLE = (
    ("\\dfrac12", "\\frac{1}{2}"),
    ("\\tfrac{1}{2}", "\\frac{1}{2}"),
    ("{1 \\over 2}", "\\frac{1 }{ 2}"),
    ("\\sqrt2", "\\sqrt{2}"),
    ("sqrt(x+1)", "\\sqrt{x+1}"),
    ("x \\geqslant 3", "x ≥ 3"),
    ("x >= 3", "x ≥ 3"),
    ("a \\not= b", "a ≠ b"),
    ("\\{1,2\\}", "⦃1,2⦄"),
    ("\\emptyset", "⦃⦄"),
    ("45^\\circ", "45°"),
    ("45^{\\circ}", "45°"),
    ("\\left(1, 2\\right)", "(1, 2)"),
    ("12\\,\\mathrm{cm}", "12 cm"),
    ("\\frac{1}{\\mathrm{e}}", "\\frac{1}{e}"),
    ("32{,}348", "32,348"),
    ("1, 2, \\ldots, n", "1, 2, …, n"),
    ("1, 2, ..., n", "1, 2, …, n"),
    ("x^{2}", "x^2"),
    ("x**2", "x^2"),
    ("x^-12", "x^{-12}"),
    ("2**-3", "2^{-3}"),
    ("e^-x", "e^{-x}"),
    ("\\mathbb{R}", "(-∞,∞)"),
    ("2 \\times 3", "2 * 3"),
    ("\\begin{bmatrix}1\\\\2\\end{bmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("$\\frac{1}{3} \\approx 0.33$", "\\frac{1}{3}"),
    ("", ""),
)


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_other_spellings_become_one(text, expected):
    assert canonical(text).replace("  ", " ") == expected


@pytest.mark.parametrize("text", [text for _, text in TABLE if text and "over" not in text])
def test_the_canonical_spelling_does_not_change(text):
    assert canonical(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("**12**.", "12"), ("$$x$$", "x"), ("$x$ and $y$", "$x$ and $y$"), ("the answer is 5", "5"), ("= 5,", "5"),
     ("approximately 3", "3"), ("'B'", "B"), ("{2}", "2"), ("{1}{2}", "{1}{2}"), ("...", "...")],
)  # fmt: skip
def test_the_formatting_around_an_answer_is_removed(text, expected):
    assert strip_wrapping(text) == expected
