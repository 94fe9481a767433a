"""Tests the exact comparison of GQA."""

from __future__ import annotations

import pytest
from builders import graded

THOUGHTS = "<think>There is no dog, or is there? (A) maybe.</think>"


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [("Living room.", True), ("living room", True), ("room", False), ("a living room", False), ("", False)],
)
def test_gqa_compares_exactly(answer: str, is_right: bool) -> None:
    assert graded("gqa", THOUGHTS + answer, "living room") == float(is_right)
