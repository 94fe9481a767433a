"""Ordinary GSM8K solutions: all phrasings of the gold are paid, no changed number is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "fixtures" / "gsm8k" / "test_64.jsonl"
"""Rows of the test set of GSM8K (arXiv:2110.14168, MIT licence)."""
PHRASINGS = (
    "#### {n}",
    "The answer is {n}.",
    "The final answer is ${n}$.",
    "**Answer:** {n}",
    "\\boxed{{{n}}}",
    "So the total is $\\boxed{{{n}}}$.",
    "<think>Let me add.</think>{n}",
    "<think>Let me add.</think>\n<answer>{n}</answer><|eot_id|><|endoftext|>",
    "${n}",
    "{n} dollars",
    "The answer is {n} apples.",
    "<think>Let me add.</think>In total there are {n} apples.",
    "x = {n}",
    "{n}.00",
)


@pytest.fixture(scope="module")
def solutions() -> list[tuple[str, str]]:
    """Returns solutions and their numbers."""
    answers = [json.loads(line)["answer"] for line in DATA.read_text(encoding="utf-8").splitlines()]
    return [(answer, answer.rpartition("####")[2].strip().replace(",", "")) for answer in answers]


def changed(number: str) -> set[str]:
    """Returns numbers that are similar to a number and different."""
    value = int(number)
    digits = str(abs(value))
    sign = "-" if value < 0 else ""
    near = {str(value + 1), str(value - 1), str(-value), f"{value}0", f"1{digits}", f"{value}.5", f"{sign}0.{digits}"}
    swapped = {sign + digits[1] + digits[0] + digits[2:]} if len(digits) > 1 else set()
    return {other for other in near | swapped if float(other) != value}


def test_every_solution_is_its_own_right_answer(grader, solutions):
    assert len(solutions) == 64
    assert [gold for solution, gold in solutions if not grader(solution, solution, "gsm8k").correct] == []


@pytest.mark.parametrize("phrasing", PHRASINGS)
def test_every_phrasing_of_the_gold_is_paid(grader, solutions, phrasing):
    missed = []
    for solution, number in solutions:
        for spelled in {number, f"{int(number):,}"}:
            if not grader(phrasing.format(n=spelled), solution, "gsm8k").correct:
                missed.append(phrasing.format(n=spelled))
    assert missed == []


def test_a_changed_number_is_never_paid(grader, solutions):
    phrasings = itertools.cycle(PHRASINGS[:-1])
    paid = []
    for solution, number in solutions:
        for other in changed(number):
            wrong = [
                next(phrasings).format(n=other),
                f"{number} or {other}",
                f"\\boxed{{{number}}}\nNo: \\boxed{{{other}}}",
                solution.rpartition("####")[0] + f"#### {other}",
            ]
            paid += [(number, text) for text in wrong if grader(text, solution, "gsm8k").correct]
    assert paid == []
