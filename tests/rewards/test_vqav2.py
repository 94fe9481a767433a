"""Compares the soft accuracy of VQAv2 with the published steps and an enumeration."""

from __future__ import annotations

import itertools

import pytest
from builders import graded

from rewards.vqav2 import normalized, soft_accuracy

THOUGHTS = "<think>There is no dog, or is there? (A) maybe.</think>"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # cases of the steps on visualqa.org/evaluation
        ("DOG", "dog"),
        ("dog.", "dog"),
        ("2.5", "2.5"),
        ("three", "3"),
        ("the dog and a cat", "dog and cat"),
        ("dont", "don't"),
        ("wouldnt've", "wouldn't've"),
        ("t-shirt", "t shirt"),
        ("100,978", "100978"),
        ("it's 5:30", "it's 5:30"),
        # cases of combined steps
        ("The man's hat!", "man's hat"),
        ("yes , no", "yes no"),
        ("well", "well"),
        ("None\tof\nthem", "0 of them"),
    ],
)
def test_vqav2_normalizes_answers(answer: str, expected: str) -> None:
    assert normalized(answer) == expected


@pytest.mark.parametrize("matches", range(11))
def test_vqav2_averages_over_the_people_that_are_left_out(matches: int) -> None:
    humans = ["red"] * matches + ["blue"] * (10 - matches)
    ways = [min(1.0, nine.count("red") / 3) for nine in itertools.combinations(humans, 9)]
    assert soft_accuracy("Red", humans) == pytest.approx(sum(ways) / 10, abs=1e-12)


def test_vqav2_finds_the_answers_of_people() -> None:
    people = [{"answer": word, "answer_confidence": "yes", "answer_id": 1} for word in ["two", "2", "3", "3"]]
    assert graded("vqav2", THOUGHTS + "2", "3", answers=people) == pytest.approx((2 * 1 / 3 + 2 * 2 / 3) / 4)
    assert graded("vqav2", "3.", "3", answers={"answer": ["3"] * 10, "answer_id": [1] * 10}) == 1.0
    assert graded("vqav2", "The Dog", "dog") == 1.0
    with pytest.raises(ValueError, match="expected texts, or objects with `answer`"):
        graded("vqav2", "3", "3", answers=[3])
    with pytest.raises(ValueError, match="found neither"):
        graded("vqav2", "3", None)
