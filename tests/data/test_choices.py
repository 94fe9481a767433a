"""Tests that gold answers that name a choice by its number, its text or a name become the letter of the choice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unigrpo import DataError
from unigrpo.data.bad_samples import BadRows
from unigrpo.data.prompts import load_prompts

QUESTION = {"question": "What is it?", "choices": ["leaf", "root", "stem"]}
LETTERED = "What is it?\nA. leaf\nB. root\nC. stem"
ARC = {"text": ["leaf", "root", "stem"], "label": ["1", "2", "3"]}


def golds(folder: Path, *rows: dict[str, Any], **settings: Any) -> list[tuple[str, str | None]]:
    """Returns the question and the gold answer of each row."""
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [(p.text, p.label) for p in load_prompts(str(folder / "a.jsonl"), bad=BadRows(1.0), **settings)]


@pytest.mark.parametrize(
    ("cells", "letters"),
    [
        ([0, 2, 1], "ACB"),  # ScienceQA
        (["0", "2", "1"], "ACB"),  # ai2d
        ([1, 3, 2], "ACB"),
        (["root", "leaf", "stem"], "BAC"),
        (["B", "A", "C"], "BAC"),
        (["B. root", "A) leaf", "(C) stem"], "BAC"),
    ],
)
def test_a_gold_that_names_a_choice_is_its_letter(tmp_path: Path, cells: list[Any], letters: str) -> None:
    found = golds(tmp_path, *({**QUESTION, "answer": cell} for cell in cells))
    assert found == [(LETTERED, letter) for letter in letters]


def test_numbers_that_may_start_at_0_or_1_are_refused(tmp_path: Path) -> None:
    message = (
        r"'answer' has the numbers of choices, and the first 2 rows do not show whether the first choice is 0 or 1"
    )
    with pytest.raises(DataError, match=message):
        golds(tmp_path, {**QUESTION, "answer": 1}, {**QUESTION, "answer": 2})
    with pytest.raises(DataError, match=message):
        golds(tmp_path, {**QUESTION, "answer": 0}, {**QUESTION, "answer": 3})


def test_a_number_without_a_choice_after_the_first_rows_is_a_bad_row(tmp_path: Path, caplog: Any) -> None:
    rows = [{**QUESTION, "answer": 0}] * 100 + [{**QUESTION, "answer": 7}]
    assert len(golds(tmp_path, *rows)) == 100
    assert "no choice of the number '7' among 3, of which the first is 0" in caplog.text


def test_gold_answers_that_name_no_choice_do_not_change(tmp_path: Path) -> None:
    free = {"question": "How long?", "choices": ["1", "2"]}
    assert [gold for _, gold in golds(tmp_path, {**free, "answer": "1.2"}, {**free, "answer": "2"})] == ["1.2", "B"]
    asked = {"question": "Is it a leaf or a root?", "choices": ["leaf", "root"]}
    assert golds(tmp_path, {**asked, "answer": "root"}) == [(asked["question"], "root")], "no letters were written"
    assert golds(tmp_path, {"question": "Who?", "answer": "A. Lincoln"}) == [("Who?", "A. Lincoln")]


def test_names_of_choices_become_the_letters_that_are_shown(tmp_path: Path) -> None:
    row = {"question": "What is it?", "choices": ARC, "answerKey": "2"}
    assert golds(tmp_path, row) == [(LETTERED, "B")]


def test_choices_in_separate_columns_follow_the_question(tmp_path: Path) -> None:
    """The columns are those of MMBench, VLMEvalKit, SEED-Bench and MedMCQA. Numbers in such columns are no choices."""
    row = {"question": "What is it?", "A": "leaf", "B": "root", "C": None, "D": ""}
    shown = "What is it?\nA. leaf\nB. root"
    assert golds(tmp_path, {**row, "answer": "B"}, {**row, "answer": "leaf"}) == [(shown, "B"), (shown, "A")]
    assert golds(tmp_path, {"question": "What is it?", "choice_a": "leaf", "choice_b": "root", "answer": "A"}) == [
        (shown, "A")
    ]
    medical = {"question": "What is it?", "opa": "leaf", "opb": "root"}
    assert golds(tmp_path, {**medical, "cop": 1}, {**medical, "cop": 0}) == [(shown, "B"), (shown, "A")]
    assert golds(tmp_path, {"question": "3+4=", "a": 3, "b": 4, "answer": 7}) == [("3+4=", "7")]
    assert golds(tmp_path, {"question": "ab=", "a": "x", "b": "y", "answer": "xy"}) == [("ab=", "xy")]


def test_choices_in_one_text_or_object_follow_the_question(tmp_path: Path) -> None:
    for choices in ("(A) leaf (B) root", "A. leaf\nB. root", {"A": "leaf", "B": "root"}):
        row = {"question": "What is it?", "options": choices, "answer": "root"}
        assert golds(tmp_path, row) == [("What is it?\nA. leaf\nB. root", "B")], choices


def test_choices_that_are_missing_in_the_columns_are_named(tmp_path: Path, caplog: Any) -> None:
    golds(tmp_path, {"question": "What is it?", "choices": "leaf, root", "answer": "A"})
    assert "'choices' is not read as choices; found 'leaf, root'" in caplog.text
    assert "its golds are the letters of choices, and no question shows choices" in caplog.text
    caplog.clear()
    for question in (LETTERED, "What is it? (A) leaf (B) root", "Which?\n$\\textbf{(A)}\\ 3$", "Which?\nA: 1\nB: 2"):
        golds(tmp_path, {"question": question, "answer": "A"})
    golds(tmp_path, {"question": "The next letter?", "answer": "A"}, {"question": "2+3=", "answer": "5"})
    assert caplog.text == ""


def test_choices_in_the_question_are_found_there(tmp_path: Path) -> None:
    for question in (LETTERED, "What is it? (A) leaf (B) root"):
        assert golds(tmp_path, {"question": question, "answer": "B. root"}) == [(question, "B")]
    amc = "Find x.\n$\\textbf{(A)}\\ 3\\qquad\\textbf{(B)}\\ 55\\qquad\\textbf{(C)}\\ 5$"
    solved = {"problem": amc, "solution": "So it is $\\boxed{\\textbf{(C)}\\ 5}$."}
    assert golds(tmp_path, solved, {"problem": amc, "solution": "\\boxed{\\textbf{(B)}\\ 5}"}) == [
        (amc, "C"), (amc, "\\textbf{(B)}\\ 5"),
    ]  # fmt: skip
    assert golds(tmp_path, {"question": "Which?", "answer": "Option B"}) == [("Which?", "B")]
    named = {"question": "How many?", "options": ["A) 21", "B) 22"], "answer": "B"}
    assert golds(tmp_path, named) == [("How many?\nA) 21\nB) 22", "B")]


def test_a_text_of_a_list_of_golds_is_that_list(tmp_path: Path, caplog: Any) -> None:
    row = {"prompt": "x?", "reward_model": {"ground_truth": json.dumps(["\\frac{3}{2}"])}}
    several = {"prompt": "y?", "reward_model": {"ground_truth": json.dumps(["12", "13"])}}
    interval = {"prompt": "z?", "reward_model": {"ground_truth": "[1, 2]"}}
    assert golds(tmp_path, row, several, interval) == [("x?", "\\frac{3}{2}"), ("z?", "[1, 2]")]
    assert "must be a text or a number; found ['12', '13']" in caplog.text


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("<image>How many?", "How many?"),
        ("Which? <image 1>\nA. red", "Which?\nA. red"),
        ("Compare <image1> with <image2>.", "Compare with."),
        ("In <image>, what", "In, what"),
        ("First.\n<image>\nThen.", "First.\nThen."),
    ],
)
def test_removed_image_markers_do_not_join_words_or_lines(tmp_path: Path, question: str, shown: str) -> None:
    assert golds(tmp_path, {"question": question, "image": "a.png", "answer": "1"}) == [(shown, "1")]
