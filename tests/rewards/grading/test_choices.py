"""Tests letters of options, yes or no, and words in gold answers and in answers."""

from __future__ import annotations

import pytest

from rewards.grading.choices import (
    gold_letter,
    letter,
    names_options,
    same_word,
    same_yes_no,
    tokens,
)


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
def test_a_strict_reader_requires_the_letter_first(text, is_strict, expected):
    assert letter(text, is_strict) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("A or B", True), ("(D)", True), ("12", False), ("triangle ABC", False)]
)
def test_a_text_of_letters_is_about_options(text, expected):
    assert names_options(text) is expected


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [("yes", "Yes, there is.", True), ("yes", "No", False), ("no", "No.", True), ("yes", "Yes or no", False),
     ("yes", "maybe yes", False), ("no", "No. 5", False), ("yes", "yesterday", False)],
)  # fmt: skip
def test_yes_and_no_stand_first_and_alone(gold, text, expected):
    assert same_yes_no(gold, text) is expected


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [("gray", "grey", True), ("cube", "the large block", True), ("cube", "cube or sphere", False),
     ("red", "not red", False), ("metal", "shiny", True), ("cube", "cubes", True),
     ("red", "blue", False), ("a dog", "dog", False),
     ("dog", "the dog", True), ("red", "red and 98", False),
     ("red", "red because 2+2=4", True), ("dog", "dog?", False)],
)  # fmt: skip
def test_a_word_equals_its_synonym_in_clevr(gold, text, expected):
    assert same_word(gold, text) is expected


def test_tokens_are_words_in_small_letters():
    assert tokens("It ISN'T \\text{Red}, 5!") == ["it", "isn't", "red", "5"]
