"""Yes, no and the words of CLEVR."""

from __future__ import annotations

import pytest

from rewards.grading.phrases import same_word, same_yes_no, tokens, yes_or_no


@pytest.mark.parametrize(
    ("text", "expected"), [("Yes.", "yes"), ("\\text{No}", "no"), ("yes, no", None), ("12", None)]
)
def test_a_gold_is_yes_or_no(text, expected):
    assert yes_or_no(text) == expected


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
def test_a_word_is_its_synonym_of_clevr(gold, text, expected):
    assert same_word(gold, text) is expected


def test_tokens_are_words_in_small_letters():
    assert tokens("It ISN'T \\text{Red}, 5!") == ["it", "isn't", "red", "5"]
