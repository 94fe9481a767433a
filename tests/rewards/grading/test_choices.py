"""Letters of options, in golds and in answers."""

from __future__ import annotations

import pytest

from rewards.grading.choices import gold_letter, letter, names_options


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("[C].", "C"),
        ("\\text{(D)}", "D"),
        ("K", None),
        ("AB", None),
        ("both", None),
        ("", None),
    ],
)
def test_a_gold_is_one_letter(gold, expected):
    assert gold_letter(gold) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B) 12 cm", "B"),
        ("the answer is C", "C"),
        ("C, none of the above", "C"),
        ("选D", "D"),
        ("A is the largest", "A"),
        ("A large cube", None),
        ("A or B", None),
        ("not A", None),
        ("B? or C", None),
        ("B, not C", "B"),
        ("B is it, unless I am wrong", None),
        ("12", None),
        ("", None),
    ],
)
def test_an_answer_chooses_one_letter_or_none(text, expected):
    assert letter(text) == expected


@pytest.mark.parametrize(
    ("text", "is_strict", "expected"), [("so clearly B", False, "B"), ("so clearly B", True, None)]
)
def test_a_strict_reader_wants_the_letter_first(text, is_strict, expected):
    assert letter(text, is_strict) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("A or B", True), ("(D)", True), ("12", False), ("triangle ABC", False)]
)
def test_a_text_of_letters_is_about_options(text, expected):
    assert names_options(text) is expected
