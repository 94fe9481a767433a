"""Tests where the answer of a response is found."""

from __future__ import annotations

import pytest

from rewards.grading.extraction import MAX_LENGTH, candidates

TABLE = (
    ("\\boxed{3}", "3", "box"),
    ("\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "box"),
    ("\\boxed{1} or \\boxed{2}", "1 or 2", "box"),
    ("\\fbox{x}", "x", "box"),
    ("2+2=4\n#### 4", "4", "hash"),
    ("The answer is 4.5. Done.", "4.5", "clause"),
    ("Answer: 12", "12", "clause"),
    ("答案是B", "B", "clause"),
    ("<think>\\boxed{1}</think>7", "7", "rest"),
    ("<answer> 5 </answer>", "5", "tag"),
    ("<answer>\\boxed{5}</answer>", "5", "box"),
    ("12", "12", "whole"),
)


@pytest.mark.parametrize(("text", "expected", "rule"), TABLE)
def test_the_most_reliable_answer_is_first(text, expected, rule):
    found = next(candidates(text), None)
    assert found is not None
    assert (found.text, found.rule) == (expected, rule)


@pytest.mark.parametrize(
    "text",
    ["", "<think>12", "\\boxed{12", "2\\boxed{3}", "\\boxed{3}x", "<answer>3", "The answer is 3. Wait, no.",
     "\\boxed{3} or maybe 4", "Is the answer 3?" * 30, "\\boxed{" + "1" * (MAX_LENGTH + 1) + "}"],
)  # fmt: skip
def test_an_open_marker_or_a_retraction_gives_no_answer(text):
    assert next(candidates(text), None) is None


def test_letters_of_options_may_be_at_the_start_of_the_last_line():
    assert next(candidates("It is far.\n(B) 12 cm", letters=True)).text == "(B) 12 cm"
    assert next(candidates("Two lines.\nA: 12")).text == "12"


def test_weaker_candidates_follow_the_box():
    found = [answer.text for answer in candidates("\\boxed{12}\nThe answer is D.", letters=True)]
    assert found == ["12", "D"]
