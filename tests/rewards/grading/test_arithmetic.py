"""Exact values of calculations, and the texts that are none."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rewards.grading.arithmetic import value

TABLE = (
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


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_a_calculation_has_its_exact_value(text, expected):
    assert value(text) == expected


@pytest.mark.parametrize("text", ["", "x+1", "2+", "1/0", "9^{9^9}", "2^{0.5}", "(((", "1 2", "2 ** ", "1" * 400])
def test_a_text_that_is_no_calculation_has_no_value(text):
    assert value(text) is None
