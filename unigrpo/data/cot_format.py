"""The unified chain-of-thought format, ``<think>thoughts</think>result``, and its conversion from common data sets.

Source: arXiv:2505.15809, section 2.2: thoughts between special marks, then the result, equally for text, image
understanding and text to image, whose result is the image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unigrpo.data.bad_samples import shown_columns
from unigrpo.data.golds import ANSWER_TAGS, GOLD_SEPARATOR, last_box

THINK, END_THINK = "<think>", "</think>"
QUESTION_KEYS = ("question", "problem", "prompt", "instruction", "caption")
THINKING_KEYS = (
    "thinking", "reasoning", "reasoning_content", "rationale", "cot", "chain_of_thought", "solution", "response",
    "generation", "output",
)  # fmt: skip
ANSWER_KEYS = ("answer", "final_answer", "label", "gold")
CALCULATION = re.compile(r"<<[^<>]*>>")
"""Calculator annotations of GSM8K."""

THOUGHT_AND_SOLUTION = re.compile(
    r"<\|begin_of_thought\|>(.*?)<\|end_of_thought\|>\s*<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>)?",
    re.DOTALL,
)
"""The marks of OpenThoughts and Bespoke-Stratos."""
REASONING = re.compile(r"<(reasoning|thinking)>(.*?)</\1>(.*)", re.DOTALL)
"""The marks of d1 and of some chat models."""
FOREIGN_MARK = re.compile(r"<\|(?:begin|end)_of_(?:thought|solution)\|>|</?(?:reasoning|thinking|answer)>")

Grade = Callable[[str, str], bool]
"""A function of prediction and gold answer that returns whether they mean the same."""


class CotError(ValueError):
    """A row that cannot be converted; ``reason`` is the same for all rows with this problem."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class CotSample:
    """A question with thoughts and a result."""

    question: str
    thinking: str
    answer: str
    """The answer; empty if the result is an image."""
    gold: str | None
    """Right answer according to the row; None if it has none."""
    is_answer_gold: bool
    """True if the thoughts contain no answer, so that the gold answer was used and a comparison would prove
    nothing."""


def render(thinking: str, answer: str, *, newlines: bool = False) -> str:
    """Returns thoughts and result as text.

    >>> render("3+4=7", "7")
    '<think>3+4=7</think>7'

    Args:
        thinking: Without the marks.
        answer: Empty if the result is an image that follows.
        newlines: Each mark on a line of its own.

    Raises:
        CotError: There are no thoughts, or a mark stands in one of them.
    """
    thinking, answer = thinking.strip(), answer.strip()
    if not thinking:
        raise CotError("no thoughts", f"expected thoughts in front of the answer {answer[:40]!r}")
    if any(mark in part for mark in (THINK, END_THINK) for part in (thinking, answer)):
        raise CotError("nested thoughts", f"{THINK} or {END_THINK} occurs inside the thoughts or the answer")
    between = "\n" if newlines else ""
    return f"{THINK}{between}{thinking}{between}{END_THINK}{between if answer else ''}{answer}"


def parse(text: str) -> tuple[str, str] | None:
    """Returns thoughts and result of a text in the format, without white space around them; None for another format.

    The inverse of :func:`render`: one pair of marks, the first at the start, with thoughts inside. The result may be
    empty.

    >>> parse("<think>3+4=7</think> 7"), parse("7")
    (('3+4=7', '7'), None)
    """
    if text.count(THINK) != 1 or text.count(END_THINK) != 1:
        return None
    before, _, rest = text.partition(THINK)
    thinking, found, answer = rest.partition(END_THINK)
    if before.strip() or not found or not thinking.strip():
        return None
    return thinking.strip(), answer.strip()


def convert_row(row: Mapping[str, Any], *, needs_answer: bool = True) -> CotSample:
    """Returns a row of a common data set in the format.

    The solution may be in the format already, end in ``#### answer``, or have a ``\\boxed{answer}``; else the answer
    column is taken.

    Args:
        row: A question (:data:`QUESTION_KEYS`), thoughts or a solution (:data:`THINKING_KEYS`), and the right answer
            (:data:`ANSWER_KEYS`), which may also hold the solution, as in GSM8K.
        needs_answer: False for thoughts before an image.

    Raises:
        CotError: One of them is missing.
    """
    question, solution, label = (_first(row, keys) for keys in (QUESTION_KEYS, THINKING_KEYS, ANSWER_KEYS))
    if question is None:
        raise CotError("no question", f"no column of {list(QUESTION_KEYS)} with a text; found {shown_columns(row)}")
    if solution is None:
        solution = label or ""
        own = _split_solution(solution)[1]
        gold = own if GOLD_SEPARATOR in solution else None
        if needs_answer and own is None:
            raise CotError(
                "no thoughts", f"no column of {list(THINKING_KEYS)} with a text; found {shown_columns(row)}"
            )
    else:
        gold = label.rpartition(GOLD_SEPARATOR)[2].strip() if label else None
    thinking, answer = _split_solution(solution)
    if needs_answer and not (answer or gold):
        raise CotError("no answer", f"no answer in the solution {solution[-40:]!r}, and no column of {ANSWER_KEYS}")
    sample = CotSample(
        question=question,
        thinking=thinking,
        answer=(answer or gold or "") if needs_answer else "",
        gold=gold,
        is_answer_gold=not answer,
    )
    render(sample.thinking, sample.answer)
    return sample


def matches_gold(sample: CotSample, grade: Grade) -> bool | None:
    """Returns whether the answer is right; None if the row has nothing to compare.

    The paper keeps only those multimodal samples whose answer matches (section 2.2).

    Args:
        sample: Result of :func:`convert_row`.
        grade: Compares the answer with the gold.
    """
    if sample.gold is None or sample.is_answer_gold:
        return None
    return grade(sample.answer, sample.gold)


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """Returns the first of the columns that holds a text or a number."""
    for key in keys:
        value = row.get(key)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return None


def _split_solution(solution: str) -> tuple[str, str | None]:
    """Returns thoughts, and the answer at their end, if it can be found.

    Raises:
        CotError: Marks of another format are left over.
    """
    thinking, answer = _split_marked(solution.strip())
    left = [mark for part in (thinking, answer or "") for mark in FOREIGN_MARK.findall(part)]
    if left:
        raise CotError("marks of another format", f"{left[0]} is left inside of the thoughts or the answer")
    return thinking, answer


def _split_marked(solution: str) -> tuple[str, str | None]:
    """Returns thoughts and answer by the marks of the solution's format."""
    thought = parse(solution)
    if other := THOUGHT_AND_SOLUTION.fullmatch(solution):
        thought = other[1].strip(), other[2].strip()
    elif other := REASONING.fullmatch(solution):
        thought = other[2].strip(), other[3].strip()
    if thought:
        tagged = ANSWER_TAGS.fullmatch(thought[1])
        return thought[0], (tagged[1].strip() if tagged else thought[1]) or None
    if GOLD_SEPARATOR in solution:
        thinking, _, answer = solution.rpartition(GOLD_SEPARATOR)
        return CALCULATION.sub("", thinking).strip(), answer.strip() or None
    return solution, last_box(solution)
