"""Extraction and comparison together: a response and a gold -> correct or not, and how it went."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from rewards.grading import choices, mathematics, numbers, prose, words
from rewards.grading.extraction import Answer, extract
from rewards.grading.notation import unwrapped
from rewards.grading.text import clean
from rewards.grading.verifier import Verifier, VerifierError, VerifierTimeout

KINDS = ("auto", "gsm8k", "math", "choice", "geoqa", "clevr")
Status = Literal["ok", "no_answer", "timeout", "error"]


@dataclass(frozen=True)
class Grade:
    """What became of one response."""

    correct: bool
    extracted: str | None
    """The answer as written, None if there is none."""
    status: Status


class Grader:
    """Grades responses of one kind or of several; holds the process that compares expressions.

    Attributes:
        counts: Number of grades by status.
    """

    def __init__(self, deadline: float = 2.0) -> None:
        self.counts: Counter[str] = Counter()
        self._verify = Verifier(deadline)

    def __call__(self, prediction: str, gold: str, kind: str = "auto") -> Grade:
        """Grades one response.

        Args:
            prediction: Response of the model, with its thoughts and special tokens.
            gold: Gold answer as in the data set.
            kind: One of ``KINDS``.

        Raises:
            ValueError: The gold cannot be graded as this kind.
        """
        form, gold = prepare(gold, kind)
        answer = extract(prediction, letters=form == "choice")
        grade = Grade(False, None, "no_answer") if answer is None else self._compare(answer, gold, form)
        self.counts[grade.status] += 1
        return grade

    def load(self) -> None:
        """Starts the process that compares expressions, which otherwise starts when it is first needed."""
        self._verify.load()

    def close(self) -> None:
        """Ends the process that compares expressions."""
        self._verify.close()

    def _compare(self, answer: Answer, gold: str, form: str) -> Grade:
        try:
            correct = _same(answer, gold, form, self._verify)
        except VerifierTimeout:
            return Grade(False, answer.text, "timeout")
        except VerifierError:
            return Grade(False, answer.text, "error")
        if not correct and answer.rule == "whole" and not _looks_like_an_answer(answer.text, form):
            return Grade(False, None, "no_answer")
        return Grade(correct, answer.text, "ok")


def prepare(gold: str, kind: str) -> tuple[str, str]:
    """How to compare (`number`, `choice`, `yes_no`, `word`, `math` or `geo_number`), and the bare gold.

    Raises:
        ValueError: Unknown kind, or a gold that cannot be graded as this kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {list(KINDS)}")
    bare = _bare_gold(gold)
    number = numbers.parse(bare)
    letter = choices.gold_letter(bare)
    if not bare:
        raise ValueError(f"expected a gold answer, found {gold[:80]!r}")
    if kind == "gsm8k" and number is None:
        raise ValueError(f"expected a number as GSM8K's gold, found {bare[:80]!r}")
    if kind == "choice" and letter is None:
        raise ValueError(f"expected one letter from A to J as the gold choice, found {bare[:80]!r}")
    if kind in ("gsm8k", "clevr") and number:
        return "number", bare
    if kind in ("choice", "geoqa") and letter:
        return "choice", letter
    said = words.tokens(bare)
    if kind in ("clevr", "auto") and said in (["yes"], ["no"]):
        return "yes_no", said[0]
    if kind == "clevr":
        if not said or len(said) > 3 or not re.fullmatch(r"[\w '.-]+", bare):
            raise ValueError(f"expected a number, yes, no or a word as CLEVR's gold, found {bare[:80]!r}")
        return "word", bare
    if kind == "auto" and letter and bare.strip("()[].: ").isupper():
        return "choice", letter
    if kind == "auto" and number and "\\" not in bare:
        return "number", bare
    if not mathematics.usable(bare):
        raise ValueError(f"expected a mathematical gold of at most {mathematics.LONGEST} characters with its brackets "
                         f"closed, found {bare[:80]!r}")  # fmt: skip
    return ("geo_number" if kind == "geoqa" else "math"), bare


def _bare_gold(gold: str) -> str:
    gold = clean(gold)
    if "####" in gold:
        gold = gold.rpartition("####")[2]
    elif "\nA:" in gold:
        gold = gold.rpartition("\nA:")[2]
    if "\\boxed" in gold or "\\fbox" in gold:
        found = extract(gold)
        gold = found.text if found else ""
    return unwrapped(gold)


def _same(answer: Answer, gold: str, form: str, verify: Verifier) -> bool:
    text = answer.text
    if "\ufffd" in text or "\x1f" in text:
        return False
    strict = answer.rule in ("hash", "whole")
    if form == "number":
        return _same_number(gold, text.rstrip("!") if answer.rule == "clause" else text, answer.rule)
    if form == "choice":
        return choices.letter(text, strict) == gold
    if form == "yes_no":
        return words.same_yes_no(gold, text)
    if form == "word":
        return words.same_word(gold, text)
    sentence = form == "geo_number" or (answer.rule not in ("box", "tag") and "\\" not in text)
    if sentence and _same_number(gold, text, answer.rule):
        return True
    return mathematics.same(gold, prose.formula(text, strict), verify)


def _same_number(gold: str, text: str, rule: str) -> bool:
    read = {"hash": prose.stated, "whole": prose.stated, "clause": prose.after_is}.get(rule, prose.number_of)
    ours = numbers.parse(gold)
    found = numbers.parse(text) or read(text)
    return ours is not None and found is not None and numbers.same(ours, found)


def _looks_like_an_answer(text: str, form: str) -> bool:
    if form == "number":
        return numbers.parse(text) is not None
    if form == "choice":
        return choices.letter(text, True) is not None
    return len(text.split()) <= 6 or len(text) <= 40
