"""The grader finds the gold answer and the answer, compares them, and reports the outcome of the comparison."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from rewards.grading import answers, choices, numbers
from rewards.grading.expressions import MAX_LENGTH
from rewards.grading.extraction import Answer, candidates
from rewards.grading.text import clean, strip_wrapping
from rewards.runtime.limited import LimitedFunction
from rewards.runtime.process import DeadlineMissed, ProcessFailed

Status = Literal["ok", "no_answer", "timeout", "error"]
_MARKED = re.compile(r"answer\b|</think>|\\(?:boxed|fbox)\b|####|(?:^|\n)[ \t*_]*A[ \t*_]*:", re.IGNORECASE)
"""A whole solution has one of these marks, and a bare answer has none."""


Grade = NamedTuple("Grade", [("correct", bool), ("extracted", str | None), ("status", Status)])
"""The verdict on one response, and the answer as it was written, or None if there is none."""


class Grader:
    """Grades responses of all kinds, and owns the process that compares expressions.

    Attributes:
        counts: Number of grades by status.
    """

    def __init__(self, deadline: float = 2.0) -> None:
        """Sets the CPU time limit, in seconds, of one comparison of two expressions."""
        self.counts: Counter[str] = Counter()
        example = ("\\sqrt{x}", "x^{1/2}")
        self._verify = LimitedFunction("rewards.grading.symbolic:equal", example, "math-verify==0.9.0", deadline)

    def __call__(self, prediction: str, gold: str, kind: str = "auto") -> Grade:
        """Grades one response.

        Args:
            prediction: Response of the model, with its thoughts and special tokens.
            gold: Gold answer as in the data set.
            kind: One of :data:`KINDS`. Where it is `auto`, the answer may have another form than the gold: a
                calculation for a number, and named coordinates for a point.

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
        self._verify("1", "1")

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
    """Returns whether a candidate can be an answer to a gold answer of this form; if not, the next one is used."""
    if form == "choice":
        return choices.names_options(answer.text)
    if form == "yes_no":
        return bool({"yes", "no"} & set(choices.tokens(answer.text)))
    if form == "number" and answer.rule in ("rest", "whole", "sentence"):
        return _number(answer) is not None
    return form != "number" or any(map(str.isdigit, numbers.to_digits(answer.text)))


def _same(answer: Answer, gold: str, form: str, verify: LimitedFunction, any_form: bool) -> bool:
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
        return any_form and not is_strict and not numbers.parse(text) and answers.same(gold, text, verify)
    return answers.same(gold, numbers.formula(text, is_strict), verify, any_form)


def _number(answer: Answer) -> numbers.Number | None:
    """Returns the number that an answer is, or that it states as a sentence."""
    text = answer.text.rstrip("!") if answer.rule == "clause" else answer.text
    is_answer = answer.rule in ("box", "tag", "rest", "clause")
    return numbers.parse(text) or numbers.number_of(text, is_answer)


def extract_gold(text: str) -> str:
    """Returns the bare gold of a data set's text, which may be a whole solution.

    The answer is taken from ``<answer>`` tags, a box, a line after ``####``, "A:" or "Answer:"; a text without any of
    them is the answer itself. The result is empty where a mark holds no answer, such as a box that is not closed.
    """
    text = clean(text).strip()
    if _MARKED.search(text):
        found = next(candidates(text), None)
        text = found.text if found and found.rule not in ("whole", "sentence") else ""
    return strip_wrapping(text)


@lru_cache(maxsize=4096)  # the samples of one prompt share their gold
def prepare(gold: str, kind: str) -> tuple[str, str]:
    """Returns how to compare (`number`, `choice`, `yes_no`, `word`, `math` or `geo_number`), and the bare gold.

    Raises:
        ValueError: Unknown kind, or a gold that cannot be graded as this kind.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind {kind!r} is not one of {list(_KINDS)}")
    bare = extract_gold(gold)
    if not bare:
        raise ValueError(f"expected a gold answer, found {gold[:80]!r}")
    expected, forms = _KINDS[kind]
    for form in forms.split():
        if _TESTS[form](bare) and not (kind == "auto" and _UNSURE.get(form, set()) & set(bare)):
            return form, choices.gold_letter(bare) or "" if form == "choice" else bare
    raise ValueError(f"expected {expected}, found {bare[:80]!r}")


_TESTS: dict[str, Callable[[str], Any]] = {
    "number": numbers.parse,
    "yes_no": lambda bare: choices.tokens(bare) in (["yes"], ["no"]),
    "choice": choices.gold_letter,
    "word": lambda bare: re.fullmatch(r"[\w '.-]+", bare) and 0 < len(choices.tokens(bare)) <= 3,
    **dict.fromkeys(("math", "geo_number"), answers.is_gradable),
}
"""Test of the gold answers of each form."""
_UNSURE = {"number": {"\\", "="}, "choice": set(string.ascii_lowercase)}
"""A gold with one of these signs has the form only if the kind says so."""
_MATHEMATICS = f"a mathematical gold of at most {MAX_LENGTH} characters with its brackets closed"
_KINDS = {
    "auto": (_MATHEMATICS, "yes_no choice number math"),
    "gsm8k": ("a number as GSM8K's gold", "number"),
    "math": (_MATHEMATICS, "math"),
    "choice": ("one letter from A to J as the gold choice", "choice"),
    "geoqa": (_MATHEMATICS, "choice geo_number"),
    "clevr": ("a number, yes, no or a word as CLEVR's gold", "number yes_no word"),
}
"""Each kind has a name for error messages, and the forms of its gold; the first that fits decides."""
KINDS = tuple(_KINDS)
