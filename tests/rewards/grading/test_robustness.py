"""Tests that hostile and huge responses have a result within the deadline, without a crash and without a reward."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from rewards.grading.extraction import candidates
from rewards.grading.grader import Grader

DEADLINE = 1.0
HOSTILE = {
    "a megabyte of digits": "\\boxed{" + "9" * 1_000_000 + "}",
    "a megabyte of bare digits": "9" * 1_000_000,
    "zeros": "2" + "0" * 100_000,
    "10,000 braces": "\\boxed{" + "{" * 10_000 + "2" + "}" * 10_000 + "}",
    "10,000 parentheses": "\\boxed{" + "(" * 10_000 + "2" + ")" * 10_000 + "}",
    "45 braces": "\\boxed{" + "(" * 45 + "3+x" + ")" * 45 + "}",
    "open braces": "{" * 100_000,
    "open boxes": "\\boxed{" * 20_000,
    "closed boxes": "\\boxed{3}," * 20_000,
    "tower": "\\boxed{9**9**9**9}",
    "LaTeX tower": "\\boxed{9^{9^{9^{9}}}}",
    "tower of products": "\\boxed{(((2^{999})^{999})^{999})^{999}}",
    "large power": "\\boxed{2^{100000000}}",
    "large factorial": "\\boxed{1000000!}",
    "large binomial": "\\boxed{\\binom{10000000}{5000000}}",
    "fractions": "\\boxed{" + "\\frac{1}{1+" * 28 + "2" + "}" * 28 + "}",
    "only commands": "\\boxed{" + "\\frac" * 200 + "}",
    "roots": "\\boxed{" + "\\sqrt{" * 28 + "2" + "}" * 28 + "}",
    "sum": "\\boxed{\\sum_{n=1}^{10^9} \\frac{1}{n}}",
    "product": "\\boxed{\\prod_{n=1}^{99999} n}",
    "integral": "\\boxed{\\int_0^{\\infty} \\frac{\\sin x}{x^{99}} dx}",
    "polynomial": "\\boxed{(x+y+z)^{999}-(x+y)^{999}}",
    "import": "\\boxed{__import__('os').system('touch /tmp/owned')}",
    "attribute": "\\boxed{().__class__.__bases__[0].__subclasses__()}",
    "list": "\\boxed{[2]*10**9}",
    "open thoughts": "<think>" * 100_000,
    "open answers": "<answer>" * 100_000,
    "hashes": "####" * 50_000,
    "clauses": "answer is " * 50_000,
    "more clauses": "the answer " * 50_000,
    "commas": "1," * 100_000,
    "minus": "-" * 200_000 + "2",
    "backslashes": "\\" * 200_000,
    "dollars": "$" * 200_001,
    "lefts": "\\boxed{" + "\\left(" * 150 + "}",
    "nothing": "\x00" * 200_000,
    "surrogate": "\\boxed{\ud800}",
    "spaces": "The answer is" + " " * 200_000 + "x",
    "matrix": "\\boxed{\\begin{pmatrix}" + "1&" * 400 + "1\\end{pmatrix}}",
}
LONG = (
    "a ",
    "<",
    "<|",
    "{",
    "}",
    "\\boxed{1} ",
    "#### ",
    "answer: ",
    "answer is ",
    "$",
    "1 ",
    "\\",
    "wait ",
    "١",
    "√(",
    "²",
    "=",
)


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    grader = Grader(DEADLINE)
    grader.load()
    yield grader
    grader.close()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(("gold", "kind"), [("2", "gsm8k"), ("\\sqrt{2}", "math"), ("x+2", "math"), ("B", "choice")])
def test_hostile_text_has_a_result_and_is_never_right(grader, name, gold, kind):
    grade = grader(HOSTILE[name], gold, kind)
    assert not grade.correct
    assert grade.status in ("ok", "no_answer", "timeout")


def test_the_grader_works_after_an_attack(grader):
    assert grader("\\boxed{\\sqrt{8}}", "2\\sqrt{2}", "math").correct


def test_the_grader_works_in_threads(grader):
    outcomes: list[bool] = []

    def grade() -> None:
        outcomes.append(grader("\\boxed{\\frac{\\sqrt{8}}{2}}", "\\sqrt{2}", "math").correct)

    threads = [threading.Thread(target=grade) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [True] * 8


@pytest.mark.parametrize("piece", LONG)
def test_extraction_takes_time_in_proportion_to_the_length(piece):
    seconds = []
    for length in (15_000, 60_000):
        text = piece * (length // len(piece))
        runs = []
        for _ in range(3):
            start = time.process_time()
            list(candidates(text))
            runs.append(time.process_time() - start)
        seconds.append(min(runs))
    assert seconds[1] < 8 * seconds[0] + 0.05
