"""Numbers in words."""

from __future__ import annotations

import pytest

from rewards.grading.number_words import to_digits

TABLE = (
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


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_words_become_digits(text, expected):
    assert to_digits(text) == expected
