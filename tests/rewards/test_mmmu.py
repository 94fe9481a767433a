"""Tests choices and open answers of MMMU with the examples of its authors."""

from __future__ import annotations

import pytest
from builders import graded

from rewards.mmmu import chosen_letter, matches_open

OPTIONS = ["75 + 13.3 cos(250t)", "red fox", "fox", "$6,000"]


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C)", "C"),
        ("(A) is too small, hence (D).", "D"),
        ("The answer is B", "B"),
        ("I say (A) because B is wrong", "A"),  # letters in brackets have priority
        ("So in this picture I see a red fox", "C"),  # `red fox` and `fox` both occur, and `fox` starts last
        ("The total value then must be $6,000", "D"),
        ("red fox", None),  # too short to be searched for the text of an option
        ("I do not know", None),
    ],
)
def test_mmmu_finds_the_chosen_option(response: str, letter: str | None) -> None:
    assert chosen_letter(response, OPTIONS) == letter
    for gold in "ABCD":
        for options in (OPTIONS, repr(OPTIONS)):
            found = graded("mmmu", response, gold, options=options, question_type="multiple-choice")
            assert found == float(gold == letter)


@pytest.mark.parametrize(
    ("response", "golds", "is_right"),
    [
        ("The answer is 24/7.", ["24/7"], True),
        ("x = 3 so the total = 1,250", ["1250"], True),
        ("The result is 0.333", ["1/3", "0.33"], True),  # numbers are compared with two decimal places
        ("12 apples", ["2"], False),
        ("It could be an echinoderm", ["Echinoderm"], True),
        ("a", ["b"], False),
        ("vitamin", ["a"], False),  # a single letter counts only next to a space
        ("the answer is vitamin a ", ["a"], True),
    ],
)
def test_mmmu_grades_open_answers(response: str, golds: list[str], is_right: bool) -> None:
    assert matches_open(response, golds) is is_right
    assert graded("mmmu", response, repr(golds), question_type="open", options="[]") == float(is_right)


def test_mmmu_refuses_a_letter_without_an_option() -> None:
    with pytest.raises(ValueError, match="the gold is 'C', but the question has 2 options"):
        graded("mmmu", "A", "C", options=["x", "y"])
    assert graded("mmmu", "(C)", "C") == 1.0, "a file may have no column of options"
