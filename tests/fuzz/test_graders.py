"""Runs the scripts for a short time that search for responses that break the grader, and for wrong answers it
accepts."""

from __future__ import annotations

import answer_pairs
import answer_texts
import pytest

from rewards.grading.grader import Grader


def test_random_responses_have_a_result():
    outcomes = answer_texts.run(seed=1, count=150)
    assert outcomes.total() == 150
    assert outcomes["ok"] > 25


def test_no_gold_answer_is_right_for_another_value():
    grader = Grader(deadline=10.0)
    pairs = [*sorted(answer_pairs.equal_pairs()), *answer_pairs.random_pairs(400, seed=1)]
    assert answer_pairs.wrong_verdicts(grader, pairs) == []
    grader.close()


class _PaysAll(Grader):
    def __call__(self, prediction, gold, kind="auto"):
        grade = super().__call__("1", "1", "gsm8k")
        assert grade.correct
        return grade


def test_a_grader_that_accepts_everything_is_found():
    pairs = answer_pairs.random_pairs(10, seed=0)
    assert len(answer_pairs.wrong_verdicts(_PaysAll(), pairs)) >= 9


class _Raises(Grader):
    def __call__(self, prediction, gold, kind="auto"):
        raise KeyError(gold)


def test_a_grader_that_raises_is_found(monkeypatch):
    monkeypatch.setattr(answer_texts, "Grader", _Raises)
    with pytest.raises(AssertionError, match="KeyError"):
        answer_texts.run(seed=0, count=5)
