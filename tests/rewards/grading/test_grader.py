"""Tests extraction, comparison, status and checks of gold answers of the grader together."""

from __future__ import annotations

import pickle

import pytest

from rewards.grading.grader import KINDS, Grader, prepare


def test_a_grade_has_the_extracted_answer(grader):
    grade = grader("<think>3 * 4</think>The answer is 12 eggs.", "12", "gsm8k")
    assert (grade.correct, grade.extracted, grade.status) == (True, "12 eggs", "ok")


@pytest.mark.parametrize("prediction", ["", " \n ", "<think>12", "\\boxed{12", "<answer>12", "\\boxed{}"])
def test_no_answer_has_its_own_status(grader, prediction):
    grade = grader(prediction, "12", "gsm8k")
    assert (grade.correct, grade.extracted, grade.status) == (False, None, "no_answer")


def test_statuses_are_counted():
    grader = Grader()
    grader("12", "12", "gsm8k")
    grader("13", "12", "gsm8k")
    grader("<think>", "12", "gsm8k")
    assert grader.counts == {"ok": 2, "no_answer": 1}


@pytest.mark.parametrize(
    ("gold", "kind", "message"),
    [
        ("", "gsm8k", "expected a gold answer"),
        ("#### ", "gsm8k", "expected a gold answer"),
        ("twelve or so", "gsm8k", "GSM8K"),
        ("K", "choice", "letter"),
        ("both", "choice", "letter"),
        ("\\boxed{\\frac{1}{2}", "math", "expected a gold answer"),
        ("\\frac{1}{2", "math", "brackets"),
        ("x" * 2000, "math", "characters"),
        ("a very long sentence about spheres", "clevr", "CLEVR"),
        ("1", "sudoku", "sudoku"),
    ],
)
def test_an_unusable_gold_is_an_error(gold, kind, message):
    with pytest.raises(ValueError, match=message):
        prepare(gold, kind)


@pytest.mark.parametrize(
    ("gold", "kind", "form"),
    [
        ("so 3+4=<<3+4=7>>7\n#### 1,007", "gsm8k", ("number", "1,007")),
        ("we get $\\boxed{\\frac{1}{2}}$.", "math", ("math", "\\frac{1}{2}")),
        ("(b)", "choice", ("choice", "B")),
        ("C", "geoqa", ("choice", "C")),
        ("50°", "geoqa", ("geo_number", "50°")),
        ("yes", "clevr", ("yes_no", "yes")),
        ("3", "clevr", ("number", "3")),
        ("cylinder", "clevr", ("word", "cylinder")),
        ("12", "auto", ("number", "12")),
        ("B", "auto", ("choice", "B")),
        ("No", "auto", ("yes_no", "No")),
    ],
)
def test_the_gold_answer_determines_the_comparison(gold, kind, form):
    assert kind in KINDS
    assert prepare(gold, kind) == form


def test_a_grader_can_be_sent_to_another_process():
    grader = pickle.loads(pickle.dumps(Grader(deadline=1.5)))
    assert grader("\\boxed{12}", "12").correct
