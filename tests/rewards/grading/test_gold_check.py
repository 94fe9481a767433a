"""Tests that exactly the gold answers that no answer can match are refused before a run."""

import pytest

from rewards.math_answer import MOST_WORDS, MathAnswer


@pytest.fixture(scope="module")
def reward():
    found = MathAnswer()
    yield found
    found.close()


@pytest.mark.parametrize(
    "gold", ["3", "1,200", "\\frac{1}{2}", "B", "(B)", "yes", "(1,2)", "x^2+1", "\\infty", "(-\\infty, 3]",
             "a red dog", "<", "+", "\\text{Monday}", "5 apples", "10%", "\\boxed{3}, \\boxed{5}", "none",
             " ".join(["word"] * MOST_WORDS)]
)  # fmt: skip
def test_a_gold_answer_that_is_right_for_itself_is_accepted(reward, gold):
    reward.check_label(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "nan",
        "NaN",
        "-inf",
        "Infinity",
        "null",
        "None",
        "N/A",
        "[not found]",
        "notfound",
        "proof",
        "undefined",
        "-",
        "???",
        "…",
    ],
)
def test_a_missing_value_is_no_gold_answer(reward, gold):
    with pytest.raises(ValueError, match="stands for a missing value"):
        reward.check_label(gold)


def test_prose_is_no_gold_answer(reward):
    with pytest.raises(ValueError, match=r"found 13 words, which no answer repeats exactly: 'word word"):
        reward.check_label(" ".join(["word"] * (MOST_WORDS + 1)))


@pytest.mark.parametrize("gold", ["", None, "The answer is unclear because of missing information."])
def test_a_gold_answer_that_is_not_right_for_itself_is_refused(reward, gold):
    with pytest.raises(ValueError, match=r"expected a gold answer|graded as wrong when it is the answer itself"):
        reward.check_label(gold)


def test_grading_golds_does_not_count_as_grading_answers(reward):
    counts = dict(reward.counts)
    reward.check_label("3")
    assert dict(reward.counts) == counts
