"""The grader decides whether a response is right, and says how the comparison ended."""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple

from rewards.grading import choices, equality, numbers, sentences
from rewards.grading.extraction import Answer, candidates
from rewards.grading.gold import prepare
from rewards.grading.verifier import Verifier
from rewards.runtime.process import DeadlineMissed, ProcessFailed

Status = Literal["ok", "no_answer", "timeout", "error"]


class Grade(NamedTuple):
    """The verdict on one response, and the answer as it was written, or None if there is none."""

    correct: bool
    extracted: str | None
    status: Status


class Grader:
    """Grades responses of all kinds, and owns the process that compares expressions.

    Attributes:
        counts: Number of grades by status.
    """

    def __init__(self, deadline: float = 2.0) -> None:
        """Takes the CPU seconds that one comparison of two expressions may spend."""
        self.counts: Counter[str] = Counter()
        self._verify = Verifier(deadline)

    def __call__(self, prediction: str, gold: str, kind: str = "auto") -> Grade:
        """Grades one response.

        Args:
            prediction: Response of the model, with its thoughts and special tokens.
            gold: Gold answer as in the data set.
            kind: One of :data:`rewards.grading.gold.KINDS`. Where it is `auto`, the answer may have another form than
                the gold: a calculation for a number, and named coordinates for a point.

        Raises:
            ValueError: The gold cannot be graded as this kind.
        """
        form, gold = prepare(gold, kind)
        found = list(candidates(prediction, letters=form == "choice"))
        answer = next((answer for answer in found if _can_answer(answer, form)), found[0] if found else None)
        grade = self._compare(answer, gold, form, kind == "auto") if answer else Grade(False, None, "no_answer")
        self.counts[grade.status] += 1
        return grade

    def load(self) -> None:
        """Starts the process that compares expressions, which otherwise starts when it is first needed."""
        self._verify.load()

    def close(self) -> None:
        """Ends the process that compares expressions."""
        self._verify.close()

    def _compare(self, answer: Answer, gold: str, form: str, any_form: bool) -> Grade:
        try:
            correct = _same(answer, gold, form, self._verify, any_form)
        except ProcessFailed as error:
            return Grade(False, answer.text, "timeout" if isinstance(error, DeadlineMissed) else "error")
        is_short = len(answer.text.split()) <= 6 or len(answer.text) <= 40
        is_answer = answer.rule not in ("whole", "sentence") or (is_short and _can_answer(answer, form))
        return Grade(correct, answer.text, "ok") if correct or is_answer else Grade(False, None, "no_answer")


def _can_answer(answer: Answer, form: str) -> bool:
    """Returns whether a candidate can answer a gold of this form at all; if not, the next candidate counts."""
    if form == "choice":
        return choices.names_options(answer.text)
    if form == "yes_no":
        return bool({"yes", "no"} & set(choices.tokens(answer.text)))
    if form == "number" and answer.rule in ("rest", "whole", "sentence"):
        return _number(answer) is not None
    return form != "number" or any(map(str.isdigit, numbers.to_digits(answer.text)))


def _same(answer: Answer, gold: str, form: str, verify: Verifier, any_form: bool) -> bool:
    text, is_strict = answer.text, answer.rule in ("hash", "whole", "sentence")
    if "\ufffd" in text or "\x1f" in text:  # a mask token, or a special token between its parts
        return False
    if form == "choice":
        return choices.letter(text, is_strict) == gold
    if form == "yes_no":
        return choices.same_yes_no(gold, text)
    if form == "word":
        return choices.same_word(gold, text)
    is_sentence = form == "geo_number" or (answer.rule not in ("box", "tag") and "\\" not in text)
    if form == "number" or is_sentence:
        ours, theirs = numbers.parse(gold), _number(answer)
        if ours and theirs and numbers.same(ours, theirs):
            return True
    if form == "number":
        return any_form and not is_strict and not numbers.parse(text) and equality.same(gold, text, verify)
    return equality.same(gold, sentences.formula(text, is_strict), verify, any_form)


def _number(answer: Answer) -> numbers.Number | None:
    """Returns the number that an answer is, or that it states as a sentence."""
    text = answer.text.rstrip("!") if answer.rule == "clause" else answer.text
    number = numbers.parse(text)
    if number or answer.rule in ("box", "tag", "rest"):
        return number or sentences.number_of(text)
    return sentences.stated(text, is_answer=answer.rule == "clause")
