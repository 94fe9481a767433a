"""Tests which number or formula of a sentence is its answer."""

from __future__ import annotations

import pytest

from rewards.grading.numbers import formula, number_of


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Natalia sold 72 clips in April and May.", 72),
        ("There are about 4", None),
        ("72 or so", None),
        ("so 2 + 5 = 7", 7),
        ("so 2 + 5 = 8", None),
        ("the area is 3 or 4", None),
        ("page 12", None),
        ("ln 2", None),
        ("it is not 5", None),
        ("The total cost is $18.", 18),
        ("no number", None),
    ],
)
def test_the_only_number_that_is_not_doubted_is_the_answer(sentence, expected):
    number = number_of(sentence)
    assert (number and number.value) == expected


@pytest.mark.parametrize(
    ("sentence", "is_answer", "expected"),
    [("So the total is 72, altogether.", False, 72), ("72 clips", False, None), ("72 clips", True, 72),
     ("The question asks for 42.", False, None)],
)  # fmt: skip
def test_a_sentence_states_its_number(sentence, is_answer, expected):
    number = number_of(sentence, is_answer)
    assert (number and number.value) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("the length is 2x", "2x"), ("the value $x+1$ works", "x+1"), ("x+1", "x+1"),
     ("the value is not $x+1$", "the value is not $x+1$"), ("$x$ because $y$", "$x$")],
)  # fmt: skip
def test_the_formula_of_a_sentence_is_found_if_it_is_unambiguous(text, expected):
    assert formula(text) == expected
