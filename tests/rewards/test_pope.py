"""Tests how POPE reads answers."""

from __future__ import annotations

import pytest
from builders import graded

THOUGHTS = "<think>There is no dog, or is there? (A) maybe.</think>"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes, there is a chair.", "yes"),
        ("No, there is not a chair in the image.", "no"),
        ("There is not a chair.", "no"),
        ("There are, no, chairs", "no"),
        ("The image shows a table. There is no chair.", "yes"),  # POPE reads only the first sentence
        ("Nothing", "yes"),  # POPE reads only whole words
        ("NO", "yes"),  # the published script reads only `No` and `no`
        ("", "yes"),
    ],
)
def test_pope_reads_no_in_the_first_sentence_and_otherwise_yes(answer: str, said: str) -> None:
    assert graded("pope", THOUGHTS + answer, said) == 1.0
    assert graded("pope", answer, {"yes": "No.", "no": "Yes"}[said]) == 0.0
