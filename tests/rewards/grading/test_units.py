"""Tests the names of units."""

from __future__ import annotations

import pytest

from rewards.grading.units import canonical, conflict, is_plausible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("centimeters", "cm"),
        ("square centimetres", "cm^2"),
        ("cm^2", "cm^2"),
        ("km/h", "km/h"),
        ("kilometers per hour", "km/h"),
        ("miles per hour", "mph"),
        ("dollars", "$"),
        ("different ways", "way"),
        ("厘米", "cm"),
        ("x", None),
        ("or", None),
        ("dozen", None),
        ("km/", None),
    ],
)
def test_a_unit_has_one_name(text, expected):
    assert canonical(text) == expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [("cm", "cm", False), ("", "cm", False), ("cm", "m", True), ("cm", "cm^2", True), ("egg", "white egg", False),
     ("egg", "cup", True), ("egg", "apple", True), ("km/h", "km", True)],
)  # fmt: skip
def test_two_units_conflict_unless_one_may_mean_the_other(gold, answer, expected):
    assert conflict(gold, answer) is expected


@pytest.mark.parametrize(
    ("text", "glued", "loose", "expected"),
    [("cm", True, False, True), ("m", True, False, False), ("m", True, True, True), ("V", True, True, False),
     ("eggs", True, True, False), ("eggs", False, False, True), ("xy", False, False, False), ("xy", False, True, True),
     ("sqrt", False, False, False)],
)  # fmt: skip
def test_a_word_is_a_unit_unless_it_may_be_a_factor(text, glued, loose, expected):
    assert is_plausible(canonical(text) or text, text, glued, loose) is expected
