"""Compares the grader with verdicts of a strict human on hard cases (tests/fixtures/grading)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CASES = Path(__file__).parents[2] / "fixtures" / "grading"


@pytest.mark.parametrize("file", sorted(CASES.glob("*.jsonl")), ids=lambda file: file.stem)
def test_the_grader_agrees_with_a_strict_human(grader, file):
    cases = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(cases) > 50
    disagreements = [
        ("paid wrongly" if not case["correct"] else "missed", case["kind"], case["gold"], case["prediction"])
        for case in cases
        if grader(case["prediction"], case["gold"], case["kind"]).correct != case["correct"]
    ]
    assert not disagreements
