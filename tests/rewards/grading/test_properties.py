"""Tests properties of all answers on random answers and on the gold answers of the fixtures."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from rewards.grading.extraction import candidates
from rewards.grading.grader import KINDS, prepare

CASES = Path(__file__).parents[2] / "fixtures" / "grading"
PHRASINGS = ("\\boxed{%s}", "The answer is %s.", "#### %s", "<answer>$%s$</answer>", "%s", "So we get %s.")


def unsolved_equations(drawn: random.Random) -> list[tuple[str, list[int]]]:
    """An equation that is not solved or not true, and the numbers that it might be paid for."""
    a, b, c = drawn.randint(2, 9), drawn.randint(1, 30), drawn.randint(1, 30)
    name = drawn.choice("xyznk")
    return [
        (f"{a}{name}={a * b}", [b, a * b]),
        (f"{b}+{name}={c + b}", [c, c + b]),
        (f"{name}^2-{a + b}{name}+{a * b}=0", [0, a, b]),
        (f"{name}-y{b}=0", [0]),
        (f"\\frac{{{name}}}{{{a}}} = {b}", [b, a * b]),
        (f"\\sqrt{{{name}}} = {a}", [a, a * a]),
        (f"{b} - {c} = {b - c + a}", [b - c, b - c + a]),
        (f"{b} \\times {a} = {a * b + c} - {c + 1}", [a * b, a * b + c, a * b - 1]),
        (f"{b} + {c} = {name}", [c]),
        (f"{name} > {b}", [b, b + 1]),
        (f"{name} \\ne {b}", [b]),
        (f"{name} + {c} = {name} + {c}", [c, 0]),
    ]


@pytest.mark.parametrize("kind", ["auto", "math", "gsm8k", "geoqa"])
def test_an_unsolved_or_false_equation_is_never_paid_for_a_number(grader, kind):
    drawn = random.Random(0)
    paid = [
        (equation, value)
        for _ in range(12)
        for equation, values in unsolved_equations(drawn)
        for value in values
        if grader(drawn.choice(PHRASINGS) % equation, str(value), kind).correct
    ]
    assert paid == []


FACTORS = (
    "%d x", "%dx", "%d xy", "%d y^2", "%d\\pi", "%d \\sqrt{2}", "%d mod 5", "%d^2", "%d e", "%d \\cdot n", "%d*n",
    "%d × n", "%d + n", "%d - n", "n + %d", "n - %d", "%d/n", "\\frac{%d}{n}", "%d \\pm 1", "%d, 13", "%d or 13",
    "%d:13", "%d-13", "%d dozen", "%d over 2", "%d_2", "%d \\ln x", "ln %d", "\\sqrt{%d}", "%d f(x)", "\\frac{1}{%d}",
    "%d < x", "x < %d", "at least %d", "about %d", "hardly %d", "%d(x+1)", "%d^{-1}",
)  # fmt: skip
"""Formulas that contain a number that is not their value."""


@pytest.mark.parametrize("kind", ["auto", "math", "gsm8k", "geoqa"])
def test_a_number_inside_a_formula_is_never_paid(grader, kind):
    answers = [phrase % (formula % 12) for formula in FACTORS for phrase in PHRASINGS]
    assert [answer for answer in answers if grader(answer, "12", kind).correct] == []


def test_verdicts_are_symmetric(grader):
    """A percentage may be given as a decimal but not the reverse. 0<x<1 may be given as (0,1), which may also be a
    point."""
    rows = (json.loads(line) for line in (CASES / "math.jsonl").read_text(encoding="utf-8").splitlines()[::4])
    pairs = {
        (row["gold"], found.text)
        for row in rows
        for found in islice(candidates(row["prediction"]), 1)
        if found.rule == "box"
    }
    one_way, num_compared = [], 0
    for gold, answer in sorted(pairs):
        try:
            forth, back = (grader(f"\\boxed{{{a}}}", g, "math").correct for a, g in ((answer, gold), (gold, answer)))
        except ValueError:  # some answers cannot be gold answers
            continue
        num_compared += 1
        if forth != back and not set("%<") & set(gold + answer):
            one_way.append((gold, answer))
    assert num_compared > 300
    assert one_way == []


def test_verdicts_do_not_depend_on_the_order_of_sets():
    rows = [json.loads(line) for file in sorted(CASES.glob("*.jsonl")) for line in file.read_text().splitlines()[::40]]
    program = """if True:
        import json, sys
        from rewards.grading.grader import Grader
        grader = Grader(10.0)
        print(json.dumps([grader(*row).correct for row in json.load(sys.stdin)]))
        grader.close()"""
    asked = [[row["prediction"], row["gold"], row["kind"]] for row in rows]
    for seed in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", program], input=json.dumps(asked), text=True, check=True,
                              stdout=subprocess.PIPE, cwd=Path(__file__).parents[3],
                              env={**os.environ, "PYTHONHASHSEED": seed})  # fmt: skip
        assert json.loads(done.stdout) == [row["correct"] for row in rows]


def golds(kind: str) -> list[str]:
    """Returns the distinct gold answers of the fixtures that can be graded as a kind, without markers such as
    boxes."""
    found = set()
    for file in sorted(CASES.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["kind"] in (kind, "math"):
                try:
                    found.add(prepare(row["gold"], kind)[1])
                except ValueError:
                    continue
    return sorted(found)


RESPELLED = (
    ("in dollars", lambda text: f"${text}$"),
    ("as a displayed formula", lambda text: f"\\[ {text} \\]"),
    ("with a full stop", lambda text: text + "."),
    ("with thin spaces around it", lambda text: f"\\, {text} \\,"),
    ("with spaces around signs", lambda text: re.sub(r"(?<=[\w)}])([+=<>])(?=[\w(\\])", r" \1 ", text)),
    ("with display fractions", lambda text: re.sub(r"\\frac(?=[\s{])", r"\\dfrac", text)),
    ("with sized brackets", lambda text: re.sub(r"(?<![\\a-z])\((.*?)\)", r"\\left(\1\\right)", text)),
    ("with other names of signs", lambda text: text.replace("\\le ", "\\leq ").replace("\\ge ", "\\geqslant ")),
    ("with another product", lambda text: text.replace("\\times", "\\cdot")),
    ("with an upright e", lambda text: re.sub(r"(?<![\\A-Za-z{])e(?=\^)", r"\\mathrm{e}", text)),
    ("in Unicode", lambda text: text.replace("\\infty", "∞").replace("\\pi", "π").replace("\\cup", "∪")),
    ("with a Unicode minus", lambda text: text.replace("-", "−") if "\\begin" not in text else text),
    ("in bold", lambda text: f"\\mathbf{{{text}}}" if "{" not in text else text),
)  # fmt: skip


@pytest.mark.parametrize("respell", [change for _, change in RESPELLED], ids=[name for name, _ in RESPELLED])
def test_an_answer_in_another_spelling_keeps_its_verdict(grader, respell):
    texts, changed = golds("math"), []
    others = random.Random(1)
    for answer in texts:
        for gold in (answer, others.choice(texts)):
            one = grader(f"\\boxed{{{answer}}}", gold, "math").correct
            other = grader(f"\\boxed{{{respell(answer)}}}", gold, "math").correct
            if one != other:
                changed.append((gold, answer, respell(answer), one, other))
    assert changed == []


@pytest.mark.parametrize("kind", ["auto", "math"])
def test_every_gold_answer_is_right_for_itself(grader, kind):
    assert [gold for gold in golds(kind) if not grader(f"\\boxed{{{gold}}}", gold, kind).correct] == []


def nested(depth: int, drawn: random.Random) -> str:
    pairs = drawn.choices([("{", "}"), ("(", ")"), ("\\frac{1}{", "}"), ("\\sqrt{", "}"), ("[", "]"), ("\\{", "\\}"),
                           ("-(", ")"), ("x^{", "}"), ("\\text{", "}"), ("1,(", ")"), ("\\boxed{", "}")],
                          k=3)  # fmt: skip
    opened = "".join(pairs[level % 3][0] for level in range(depth))
    return f"{opened}2{''.join(pairs[level % 3][1] for level in reversed(range(depth)))}"


@pytest.mark.parametrize("depth", [9, 45, 51, 5000])
def test_deep_nesting_has_a_result(grader, depth):
    drawn = random.Random(depth)
    for _ in range(4):
        answer = nested(depth, drawn)
        for kind, gold in (("auto", "(1,(2,3))"), ("math", "\\frac{1}{2}"), ("gsm8k", "2"), ("choice", "B")):
            for text in (answer, f"\\boxed{{{answer}}}", answer.rstrip(")}]")):
                assert grader(text, gold, kind).status in ("ok", "no_answer", "timeout", "error")
        for kind in KINDS:
            try:
                grader("\\boxed{2}", answer, kind)
            except ValueError as error:
                assert "expected" in str(error)
