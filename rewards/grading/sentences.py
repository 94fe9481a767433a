"""The only number or formula of a sentence is found if the sentence leaves no doubt and no open calculation."""

from __future__ import annotations

import re
from collections.abc import Set

from rewards.grading import numbers, units
from rewards.grading.expressions import FUNCTIONS, SMALL_WORDS
from rewards.grading.numbers import Number

_TOKEN = re.compile(r"-?[$€£¥₹¢]?\d[\d.,/]*")
_WORD = re.compile(r"[A-Za-z']+")
_LABELS = frozenset(
    "page line box step question chapter figure problem option item row section part case equation table "
    "january february march april may june july august september october november december".split()
)
"""A number behind one of these words is a label and counts nothing."""
_PREPOSITIONS = frozenset("to for in at on by".split())
"""A sentence mentions a number behind one of these words, and does not state it."""
_SAID = re.compile(r".*(?:[A-Za-z]+ [A-Za-z]+|[A-Za-z]:|'s) ", re.DOTALL)
_STATED = re.compile(
    r"(?:so |therefore,? |thus,? |hence,? )?(?:the|it)\b[A-Za-z ,∠△]* (?:is|equals|measures) ([^.]+(?:\.\d[^.]*)?)\.?",
    re.IGNORECASE,
)
_SHORT_WORDS = SMALL_WORDS | {"a", "i", "s"} | {name for name in units.KNOWN if len(name) == 2}
_BEFORE = units.HEDGES - {"and", "to"}
_AROUND = units.HEDGES - {"and", "over", "to", "through", "around", "about", "most", "equals"}


def number_of(sentence: str) -> Number | None:
    """Returns the only number of a sentence without doubt and open calculation, or None."""
    text = re.sub(r"(?<=\s)May\b", "month", numbers.spelled(sentence))
    if "=" in text:
        return numbers.solution(text, number_of)
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) != 1:
        return None
    before, after = text[: tokens[0].start()], text[tokens[0].end() :]
    names = _WORD.findall(before.lower())
    if names == ["see"] or re.search(r"[^A-Za-z'\s,.:=()*-]|[^\s:=(*]$|\b[b-z]\s+-\s*$", before):
        return None
    if _doubted(names, _BEFORE) or {*names[-1:]} & (_LABELS | FUNCTIONS):
        return None
    number = numbers.read(text[len(before) :])
    if number:
        return number
    names = _WORD.findall(units.KIND.sub("", re.sub(r"\beither [a-z ]+ or [a-z]+", " ", after.lower())))
    if re.search(r"[^A-Za-z'\s,.()*%-]|^[^\s%,.*)]", after) or _doubted(names) or names[:1] == ["and"]:
        return None
    if names == ["i"] or any(len(name) <= 2 and name not in _SHORT_WORDS for name in names):  # 12 x is a product
        return None
    return numbers.read(tokens[0][0])


def stated(sentence: str, is_answer: bool = False) -> Number | None:
    """Returns the only number of a sentence that states it, or None if the sentence only mentions it.

    What stands behind "the answer is" (`is_answer`) needs no other words.
    """
    text = numbers.spelled(sentence)
    token = _TOKEN.search(text)
    before = text[: token.start()] if token else ""
    if not is_answer and len(_WORD.findall(text)) < 3 and not _SAID.fullmatch(before):
        return None
    return None if {*_WORD.findall(before)[-1:]} & _PREPOSITIONS else number_of(sentence)


def formula(text: str, strict: bool = False) -> str:
    """Returns the formula of a sentence such as "the length is $2x$ cm", or the text where that is not clear.

    With `strict`, only "the length is 2x" counts, and no formula between other words.
    """
    text = text if strict else re.split(r",?\s+(?:because|since|which)\b", text, maxsplit=1)[0]
    said = _STATED.fullmatch(text.replace("$", "") if text.count("$") == 2 else text)
    if said and "$" not in said[1] and not _doubted(_WORD.findall(text.lower())):
        return said[1]
    segments = re.findall(r"\$([^$]+)\$", text)
    outside = re.sub(r"\$[^$]+\$", " ", text)
    if strict or len(segments) != 1 or not re.search(r"[A-Za-z]{2,}", outside) or re.search(r"\d", outside):
        return text
    return text if _doubted(_WORD.findall(outside.lower())) else segments[0]


def _doubted(names: list[str], hedges: Set[str] = _AROUND) -> bool:
    return any(name in hedges or name.endswith("n't") for name in names)
