"""The only number, or the only formula, of a sentence."""

from __future__ import annotations

import re
from fractions import Fraction

from rewards.grading import number_words, numbers, units
from rewards.grading.numbers import Number

_TOKEN = re.compile(r"[$€£¥₹¢]?\d[\d.,/]*")
_WORD = re.compile(r"[A-Za-z']+")
_CALCULATION = re.compile(r"[\d\s+\-*/().,$%]*\d\s*[+\-*/][\d\s+\-*/().,$%]*")
_LABELS = frozenset(
    "page line box step question chapter figure problem option item row section part case equation table".split()
)
"""Words whose number names a thing and counts nothing."""
_FILLERS = frozenset(
    "a the that there he she it they we you i total of sum value number amount exactly just only simply therefore "
    "thus so indeed clearly usd us is are be must x y n".split()
)
_STATED = re.compile(
    r"(?:so |therefore,? |thus,? |hence,? )?(?:the|it)\b[A-Za-z ,∠△]* (?:is|equals|measures) ([^.]+(?:\.\d[^.]*)?)\.?",
    re.IGNORECASE,
)
_REASON = re.compile(r",?\s+(?:because|since|which)\b")
_BEFORE = units.HEDGES - {"and", "to"}
_AFTER = units.HEDGES - {"and", "over", "to", "through", "around", "about", "most"}
_EITHER = re.compile(r"\beither [a-z ]+ or [a-z]+")
_VERB = re.compile(
    r"(?:.*\b(?:is|are|was|were|has|have|equals|there's|it's|that's|count|see|get|got|makes|needs?|takes?|costs?|earns?|pays?"
    r"|measures|total of)|[A-Za-z ]{1,40}:|.*=)\s+(.+)",
    re.DOTALL | re.IGNORECASE,
)


def after_is(text: str) -> Number | None:
    """The only number of what stands behind "the answer is", where few words may come before it."""
    token = _TOKEN.search(text)
    before = set(_WORD.findall(text[: token.start()].lower())) if token else set[str]()
    return number_of(text) if before <= _FILLERS or stated(text) else None


def number_of(sentence: str) -> Number | None:
    """The only number of a sentence that neither hedges nor calculates, or None.

    >>> number_of("Natalia sold 72 clips in April and May."), number_of("72 or so")
    (Number(value=Fraction(72, 1), unit='', percent=False), None)
    """
    if len(sentence) > numbers.LONGEST:
        return None
    text = numbers.spelled(sentence).replace("$ ", "$")
    text = re.sub(r"(?<=\s)May\b", "month", text)
    if text.count("$") == 2 and re.search(r"\$[^$]*\d[^$ ]*\$", text):
        text = text.replace("$", "")
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) > 1 and "=" in text:
        left, _, right = text.rpartition("=")
        return number_of(right) if _CALCULATION.search(left) else None
    if len(tokens) > 1:
        return None
    return _digits(text, tokens[0]) if tokens else _words(text)


def stated(sentence: str) -> Number | None:
    """The number that a sentence ends with, after "is", "are", "has" or the like, if it has no other."""
    found = _VERB.fullmatch(sentence.strip())
    number = numbers.parse(found[1]) if found else None
    whole = number_of(sentence) if number else None
    return number if number and whole and whole.value == number.value else None


def formula(text: str, strict: bool = False) -> str:
    """The formula of a sentence such as "the length is $2x$ cm"; the text itself where that is not clear.

    Args:
        text: An extracted answer.
        strict: Only "the length is 2x" counts, not a formula between other words.
    """
    text = text if strict else _REASON.split(text, maxsplit=1)[0]
    said = _STATED.fullmatch(text.replace("$", "") if text.count("$") == 2 else text)
    if said and "$" not in said[1] and not _doubted(text):
        return said[1]
    segments = re.findall(r"\$([^$]+)\$", text)
    outside = re.sub(r"\$[^$]+\$", " ", text)
    if strict or len(segments) != 1 or not re.search(r"[A-Za-z]{2,}", outside) or re.search(r"\d", outside):
        return text
    is_unit = text.strip().startswith("$") and units.canonical(outside.strip(" ."))
    return text if is_unit or _doubted(outside) else segments[0]


def _doubted(text: str) -> bool:
    return bool((units.HEDGES - {"to", "equals"}) & set(re.findall(r"[a-z']+", text.lower())))


def _digits(text: str, token: re.Match[str]) -> Number | None:
    start = token.start()
    if start and text[start - 1] == "-":
        start -= 1
    before, after = text[:start], text[token.end() :]
    if before and not before[-1].isspace() and before[-1] not in ":=(*":
        return None
    names = _WORD.findall(before.lower())
    if names and (names[-1] in _LABELS or names == ["see"]):
        return None
    if re.search(r"[^A-Za-z'\s,.:=()*-]", before) or _BEFORE & set(names) or _counts(names):
        return None
    number = numbers.parse(text[start:], words=False)
    if number:
        return number
    names = _WORD.findall(units.KIND.sub("", _EITHER.sub(" ", after.lower())))
    if re.search(r"[^A-Za-z'\s,.()*%-]", after) or _AFTER & set(names) or names[:1] == ["and"] or _counts(names):
        return None
    if not after[:1].isspace() and after[:1] not in "%,.*)":
        return None
    return numbers.parse(text[start : token.end()], words=False)


def _counts(names: list[str]) -> bool:
    """Whether there is a number word; "one" may be a pronoun."""
    return any(name in number_words.NUMBER_WORDS for name in names if name != "one")


def _words(text: str) -> Number | None:
    if re.search(r"[^A-Za-z'\s,.-]", text):
        return None
    names = [token[0].lower() for token in re.finditer(r"[A-Za-z']+", text)]
    ones = _counts(names)
    for token in re.finditer(r"[A-Za-z']+", text):
        name = token[0].lower()
        if name not in number_words.NUMBER_WORDS or (name == "one" and ones):
            continue
        found = number_words.read(text[token.start() :])
        before = _WORD.findall(text[: token.start()].lower())
        after = _WORD.findall(_EITHER.sub(" ", found[1].lower())) if found else []
        if found is None or _BEFORE & set(before) or _AFTER & set(after) or after[:1] == ["and"] or len(names) > 20:
            return None
        again = any(other in number_words.NUMBER_WORDS for other in after if other != "one")
        return None if again or before[-1:] == ["no"] else Number(Fraction(found[0]))
    return None
