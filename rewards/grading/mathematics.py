"""Mathematical answers: lists, tuples, sets and intervals by structure; only single expressions reach math-verify."""

from __future__ import annotations

import re
from collections.abc import Callable

from rewards.grading import choices, clocks_and_bases, intervals, numbers, units
from rewards.grading.atoms import COMMAND, FUNCTIONS, WORD, decided, symbols
from rewards.grading.notation import normal, unwrapped
from rewards.grading.structure import ASSIGN, MOST_ITEMS, bare, depth, sequence, union

LONGEST = 1000
_UNIT_AT_END = re.compile(r"(.*[\w})π])\s+((?:square |cubic )?[A-Za-z°]+(?:\s*/\s*[A-Za-z]+)?(?:\^?\{?[23]\}?)?)")


def usable(gold: str) -> bool:
    """Whether a gold can be compared: not empty, not too long, brackets closed."""
    text = normal(gold)
    return bool(text) and len(text) <= LONGEST and depth(text) is not None


def same(gold: str, answer: str, verify: Callable[[str, str], bool]) -> bool:
    """Whether an answer is the gold.

    Args:
        gold: Gold answer, LaTeX or plain.
        answer: Extracted answer.
        verify: Decides two expressions; called only for what cheaper comparisons leave open.
    """
    if len(answer) > LONGEST:
        return False
    ours, theirs = normal(gold), normal(answer)
    if not theirs or "\ufffd" in theirs or depth(theirs) is None:
        return False
    return _same(ours, theirs, verify, 0)


def _same(gold: str, answer: str, verify: Callable[[str, str], bool], level: int) -> bool:
    if level > 8:
        return False
    gold, answer = bare(gold), bare(answer)
    if _key(gold) == _key(answer):
        return True
    number = numbers.parse(gold, words=False, loose_units=False)
    other = numbers.parse(answer, words=False, loose_units=False)
    if number and other:
        return numbers.same(number, other) and _same_variable(gold, answer)
    for canonical in (clocks_and_bases.time, clocks_and_bases.base):
        if canonical(gold) or canonical(answer):
            return canonical(gold) == canonical(answer)
    if re.fullmatch(r"\([A-J]\)|[A-J]", gold.strip()) and re.fullmatch(r"\(?[A-J][).]?", answer):
        return choices.gold_letter(gold) == choices.letter(answer)
    as_interval = intervals.same(gold, answer)
    if as_interval is not None:
        return as_interval
    parts, others = union(gold), union(answer)
    if len(parts) > 1 or len(others) > 1:
        return _match(parts, others, verify, level)
    first, second = sequence(gold), sequence(answer)
    if first or second:
        return _same_sequence(first, second, verify, level)
    return _same_atom(gold, answer, number, other, verify)


def _key(text: str) -> str:
    words = WORD.search(COMMAND.sub(" ", text))
    squeezed = re.sub(r"\s+", " " if words else "", text.rstrip("."))
    return squeezed.casefold() if words else squeezed


def _same_sequence(
    first: tuple[str, list[str]] | None,
    second: tuple[str, list[str]] | None,
    verify: Callable[[str, str], bool],
    level: int,
) -> bool:
    if first is None or second is None:
        return False
    ours, theirs = first[0], second[0]
    if ours in ("", "⦃⦄"):
        return theirs in ("", "⦃⦄") and _match(first[1], second[1], verify, level)
    if ours != theirs or len(first[1]) != len(second[1]):
        return False
    return all(_same(a, b, verify, level + 1) for a, b in zip(first[1], second[1], strict=True))


def _match(ours: list[str], theirs: list[str], verify: Callable[[str, str], bool], level: int) -> bool:
    """Whether two unordered lists hold the same; a repeated item counts once."""
    ours, theirs = list(dict.fromkeys(map(_key, ours))), list(dict.fromkeys(map(_key, theirs)))
    if len(ours) != len(theirs) or len(ours) > MOST_ITEMS:
        return False
    left = [item for item in theirs if item not in ours]
    for item in (item for item in ours if item not in theirs):
        found = next((other for other in left if _same(item, other, verify, level + 1)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_variable(gold: str, answer: str) -> bool:
    ours, theirs = ASSIGN.fullmatch(gold), ASSIGN.fullmatch(answer)
    return not (ours and theirs and len(ours[1]) == len(theirs[1]) == 1 and ours[1] != theirs[1])


def _same_atom(
    gold: str,
    answer: str,
    number: numbers.Number | None,
    other: numbers.Number | None,
    verify: Callable[[str, str], bool],
) -> bool:
    ours, theirs = ASSIGN.fullmatch(gold), ASSIGN.fullmatch(answer)
    if theirs and not ours and "=" not in gold and not intervals.INEQUALITY.fullmatch(gold):
        if theirs[1] in symbols(gold) or theirs[1].lstrip("\\") in FUNCTIONS:
            return False
        return _same_plain(gold, unwrapped(theirs[2].rpartition("=")[2] if "=" in theirs[2] else theirs[2]), verify)
    if ours and theirs:
        return ours[1] == theirs[1] and _same_plain(ours[2], theirs[2], verify)
    if ours and not theirs:
        if not symbols(ours[2]) and "=" not in answer:
            return _same_plain(ours[2], answer, verify)
        return "=" in answer and decided(gold, answer, verify)
    if "=" in answer and "=" not in gold and not symbols(answer):  # 6/3 = 2
        return _same_plain(gold, answer.rpartition("=")[2].strip(), verify)
    return _same_plain(gold, answer, verify)


def _same_plain(gold: str, answer: str, verify: Callable[[str, str], bool]) -> bool:
    gold, answer = bare(gold), bare(answer)
    if _key(gold) == _key(answer):
        return True
    (gold, ours), (answer, theirs) = _unit(gold), _unit(answer)
    if units.conflict(ours, theirs):
        return False
    number = numbers.parse(gold, words=False, loose_units=False)
    other = numbers.parse(answer, words=False, loose_units=False)
    if number and other:
        return numbers.same(number, other)
    if _key(gold) == _key(answer):
        return True
    return decided(gold, answer, verify)


def _unit(text: str) -> tuple[str, str]:
    degrees = re.fullmatch(r"(.+?)\s*°", text)
    if degrees:
        return degrees[1], "degree"
    found = _UNIT_AT_END.fullmatch(text)
    if not found or found[2].strip().lower() in FUNCTIONS:
        return text, ""
    name = units.canonical(found[2])
    words = re.split(r"[ /^]", name) if name else []
    if name is None or not all(w.isdigit() or w in units.KNOWN for w in words) or len(found[2]) < 2:
        return text, ""
    return found[1], name
