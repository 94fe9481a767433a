"""Names of units."""

from __future__ import annotations

import pytest

from rewards.grading.units import canonical, conflict, kinds


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
    ("unit", "text", "expected"),
    [("m", "m", {"known", "letter"}), ("cm", "cm", {"known"}), ("egg", "eggs", {"noun"}),
     ("v", "V", {"known", "rare letter"}), ("xy", "xy", {"word"})],
)  # fmt: skip
def test_a_unit_is_known_a_noun_or_a_letter(unit, text, expected):
    assert kinds(unit, text) & {"letter", "rare letter", "noun", "word"} == expected - {"known"}
