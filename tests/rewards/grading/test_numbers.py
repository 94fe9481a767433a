"""Tests numbers as people write them, and how two of them are compared."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rewards.grading.numbers import Number, parse, same, to_digits
from rewards.grading.units import TOGETHER

TABLE = (
    ("12", Number(Fraction(12))),
    ("-3.50", Number(Fraction(-7, 2))),
    ("1,080", Number(Fraction(1080))),
    ("10,\\!080", Number(Fraction(10080))),
    ("3 1/2", Number(Fraction(7, 2))),
    ("1\\frac{4}{5}", Number(Fraction(9, 5))),
    ("0.1\\overline{6}", Number(Fraction(1, 6))),
    ("1.5 \\times 10^{-3}", Number(Fraction(3, 2000))),
    ("2e3", Number(Fraction(2000))),
    ("2.450,00", Number(Fraction(2450))),
    ("$18.90", Number(Fraction(189, 10), "$")),
    ("5 million dollars", Number(Fraction(5_000_000), "$")),
    ("10\\%", Number(Fraction(10), percent=True)),
    ("8\\text{ cm}^2", Number(Fraction(8), "cm^2")),
    ("60 miles per hour", Number(Fraction(60), "mph")),
    ("x = 7", Number(Fraction(7))),
    ("2 + 5 = 7", Number(Fraction(7))),
    ("twelve apples", Number(Fraction(12), "apple")),
    ("1,200 (1200)", Number(Fraction(1200))),
    ("1/2 cm (0.5)", Number(Fraction(1, 2), "cm")),
    ("2 hours and 30 minutes", Number(Fraction(9000), TOGETHER)),
    ("1 day, 2 h 1.5 min", Number(Fraction(93690), TOGETHER)),
)


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_a_number_is_exact_and_keeps_its_unit(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "x", "12 or 13", "2 + 5", "5 - 3 = 9", "2x = 8", "x^2 = 9", "1/0", "12 dozen", "~~12~~", "1,00", "10^{9999}",
     "ln 2", "12 of them are not", "--3", "1 2",
     "1,200 (1300)", "30 minutes 2 hours", "2 hours 1 hour", "2 hours 30", "2 apples 30 minutes",
     "2 hours -30 minutes"],
)  # fmt: skip
def test_a_text_without_exactly_one_number_has_none(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("12", "12.0 cm", True),
        ("12 cm", "12", True),
        ("12 cm", "12 inches", False),
        ("2.5 hours", "150 minutes", True),
        ("2 hours 30 minutes", "2.5 hours", True),
        ("2 hours 30 minutes", "2 h 30 min", True),
        ("2 hours 30 minutes", "2 hours", False),
        ("2 hours 30 minutes", "2.5", False),
        ("2.5", "2 hours 30 minutes", False),
        ("12 eggs", "12 white eggs", True),
        ("$5", "5 euros", False),
        ("10%", "10", True),
        ("10%", "0.1", True),
        ("0.1", "10%", False),
        ("1/3", "0.333333", False),
        ("1e-20", "2e-20", False),
    ],
)
def test_numbers_are_equal_by_value_and_unit(gold, answer, expected):
    ours, theirs = parse(gold), parse(answer)
    assert ours is not None
    assert theirs is not None
    assert same(ours, theirs) is expected


WORDS = (
    ("zero", "0"),
    ("twelve eggs", "12 eggs"),
    ("twenty-one", "21"),
    ("Forty Two", "42"),
    ("a hundred and five", "105"),
    ("two thousand three hundred and six", "2306"),
    ("one million", "1000000"),
    ("minus seven", "-7"),
    ("one half", "1/2"),
    ("two-thirds", "2/3"),
    ("three and a half", "7/2"),
    ("third", "third"),
    ("someone", "someone"),
    ("one-way", "one-way"),
    ("seventeenth", "seventeenth"),
)


@pytest.mark.parametrize(("text", "expected"), WORDS)
def test_words_become_digits(text, expected):
    assert to_digits(text) == expected
