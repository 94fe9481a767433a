"""Tests the format of thoughts and answers, and the conversion of common data sets to it."""

import pytest

from rewards.cot_format import is_well_formed
from unigrpo.data.cot_format import CotError, convert_row, matches_gold, parse, render


@pytest.mark.parametrize("newlines", [False, True])
@pytest.mark.parametrize(("thinking", "answer"), [("3+4=7", "7"), (" a\n\nb ", "x < y\n"), ("a <b> c", "#### 3")])
def test_a_written_text_is_read_again_and_gets_the_reward(thinking, answer, newlines):
    text = render(thinking, answer, newlines=newlines)
    assert parse(text) == (thinking.strip(), answer.strip())
    assert is_well_formed(text, strict_newlines=newlines)


def test_thoughts_before_an_image_have_no_answer():
    assert render("a red square", "") == "<think>a red square</think>"
    assert render("a red square", "", newlines=True) == "<think>\na red square\n</think>"
    assert parse("<think>a red square</think>") == ("a red square", "")


@pytest.mark.parametrize(
    "text",
    ["7", "", "<think></think>7", "<think>a", "a</think>7", "x<think>a</think>7", "<think>a<think>b</think>7",
     "<think>a</think>7</think>", "</think>a<think>7"],
)  # fmt: skip
def test_text_in_another_format_is_not_read(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    ("thinking", "answer", "reason"),
    [("", "7", "no thoughts"), (" \n", "7", "no thoughts"), ("a</think>b", "7", "nested thoughts"),
     ("a", "<think>7", "nested thoughts")],
)  # fmt: skip
def test_text_that_could_not_be_read_again_is_not_written(thinking, answer, reason):
    with pytest.raises(CotError) as caught:
        render(thinking, answer)
    assert caught.value.reason == reason


QUESTION = {"question": "48 clips, half as many in May?"}


@pytest.mark.parametrize(
    ("row", "thinking", "answer", "gold", "is_answer_gold"),
    [
        # In GSM8K, the answer column has solution and answer
        ({"answer": "48/2 = <<48/2=24>>24 clips.\n#### 24"}, "48/2 = 24 clips.", "24", "24", False),
        # In MATH, the solution has a box
        (
            {"solution": "It is $\\boxed{\\frac{1}{2}}$."},
            "It is $\\boxed{\\frac{1}{2}}$.",
            "\\frac{1}{2}",
            None,
            False,
        ),
        ({"solution": "So \\boxed{1} or \\boxed{2}.", "answer": "2"}, "So \\boxed{1} or \\boxed{2}.", "2", "2", False),
        # a solution without an answer
        ({"reasoning": "24 is half of 48", "answer": 24}, "24 is half of 48", "24", "24", True),
        ({"solution": "box \\boxed{open", "answer": "24"}, "box \\boxed{open", "24", "24", True),
        # already in the format
        ({"response": "<think>24?</think>It is 24.", "label": "#### 24"}, "24?", "It is 24.", "24", False),
        ({"response": "<think>24?</think>24"}, "24?", "24", None, False),
        ({"answer": "<think>24?</think>24"}, "24?", "24", None, False),
    ],
)
def test_rows_of_common_sets_are_converted(row, thinking, answer, gold, is_answer_gold):
    sample = convert_row(QUESTION | row)
    assert (sample.thinking, sample.answer, sample.gold) == (thinking, answer, gold)
    assert (sample.question, sample.is_answer_gold) == (QUESTION["question"], is_answer_gold)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"solution": "a", "answer": "b"}, "no question"),
        (QUESTION, "no thoughts"),
        (QUESTION | {"answer": "24"}, "no thoughts"),
        (QUESTION | {"answer": "#### 24"}, "no thoughts"),
        (QUESTION | {"solution": "half of 48"}, "no answer"),
        (QUESTION | {"solution": "half", "answer": True}, "no answer"),
        (QUESTION | {"solution": "<think>a</think><think>b</think>", "answer": "24"}, "nested thoughts"),
        (QUESTION | {"solution": ["half"], "answer": None}, "no thoughts"),
    ],
)
def test_a_row_that_cannot_be_converted_says_why(row, reason):
    with pytest.raises(CotError) as caught:
        convert_row(row)
    assert caught.value.reason == reason


def test_thoughts_before_an_image_need_no_answer():
    row = {"prompt": "the flag of Japan", "thinking": "a red disc on white", "image": "a.png"}
    sample = convert_row(row, needs_answer=False)
    assert (sample.question, sample.thinking, sample.answer) == ("the flag of Japan", "a red disc on white", "")


def test_only_a_separate_answer_is_compared_with_the_gold_answer():
    def grade(prediction, gold):
        return prediction == gold

    right, wrong = (convert_row(QUESTION | {"solution": f"\\boxed{{{n}}}", "answer": "24"}) for n in (24, 25))
    assert (matches_gold(right, grade), matches_gold(wrong, grade)) == (True, False)
    assert matches_gold(convert_row(QUESTION | {"solution": "half", "answer": "24"}), grade) is None
    assert matches_gold(convert_row(QUESTION | {"solution": "\\boxed{24}"}), grade) is None


@pytest.mark.parametrize(
    "solution",
    [
        "<|begin_of_thought|>add\n\nup<|end_of_thought|>\n\n<|begin_of_solution|>3<|end_of_solution|>",
        "<|begin_of_thought|>add\n\nup<|end_of_thought|><|begin_of_solution|> 3",
        "<reasoning>add\n\nup</reasoning>\n<answer>3</answer>",
        "<thinking>add\n\nup</thinking> 3",
        "<think>add\n\nup</think><answer> 3 </answer>",
    ],
)
def test_markers_of_other_formats_are_converted(solution):
    sample = convert_row({"question": "1+2=", "output": solution, "answer": "3"})
    assert render(sample.thinking, sample.answer) == "<think>add\n\nup</think>3"


@pytest.mark.parametrize(
    "solution",
    [
        "<|begin_of_thought|>add<|end_of_thought|> 3",
        "add<|begin_of_solution|>3<|end_of_solution|>",
        "<reasoning>add <answer>3</answer>",
        "<think>add</think>so <answer>3</answer>",
    ],
)
def test_a_row_with_markers_that_cannot_be_converted_is_refused(solution):
    with pytest.raises(CotError) as caught:
        convert_row({"question": "1+2=", "output": solution, "answer": "3"})
    assert caught.value.reason == "marks of another format"
