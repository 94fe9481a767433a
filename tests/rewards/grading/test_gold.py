"""Tests gold answers in texts of data sets, and how they are compared."""

from __future__ import annotations

import pytest

from rewards.grading.grader import extract_gold, prepare


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2 + 5 = 7\n#### 7", "7"), ("<answer> B </answer>", "B"), ("so $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
     ("$x+1$", "x+1"), ("We add.\nAnswer: 12", "12"), ("\\boxed{3", ""), ("", "")],
)  # fmt: skip
def test_the_gold_is_found_in_its_text(text, expected):
    assert extract_gold(text) == expected


@pytest.mark.parametrize(
    ("gold", "form"),
    [
        ("yes", "yes_no"),
        ("B", "choice"),
        ("12", "number"),
        ("x = 12", "math"),
        ("\\frac{1}{2}", "math"),
        ("Paris", "math"),
    ],
)
def test_auto_infers_the_comparison_from_the_gold(gold, form):
    assert prepare(gold, "auto")[0] == form
