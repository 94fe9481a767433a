"""Mathematical answers: lists, sets, intervals and matrices by structure; single expressions by math-verify."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from rewards.grading import choices, clocks_and_bases, intervals, numbers, units
from rewards.grading.atoms import COMMAND, FUNCTIONS, LONGEST, WORD, decided, symbols
from rewards.grading.notation import normal, unwrapped
from rewards.grading.structure import ASSIGN, MOST_ITEMS, bare, depth, matrix, sequence, union

Verify = Callable[[str, str], bool]
_UNIT_AT_END = re.compile(
    r"(.*?[\w})π])(?:\s+|(?<=[})]))"
    r"((?:(?:square|cubic|sq) )?[A-Za-z°]+(?:\s*/\s*[A-Za-z]+| per [a-z]+)?(?:\^?\{?[23]\}?)?)"
)
_FUNCTION = re.compile(r"y?[a-z]\(x\)y?")
_ANGLE_FUNCTION = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
"""Of 20 degrees is another number than of 20."""
_SYMBOL = re.compile(r".|[A-Z]{2}")
"""A variable, or a segment by its ends in either order."""
_LETTER = re.compile(r"\(?[A-J][).]?")
_ARTICLE = re.compile(r"(?:an?|the) (?=[a-z]{3})", re.IGNORECASE)


def usable(gold: str) -> bool:
    """Whether a gold can be compared: not empty, not too long, brackets closed."""
    text = normal(gold)
    return bool(text) and len(text) <= LONGEST and depth(text) is not None


def same(gold: str, answer: str, verify: Verify) -> bool:
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


def _same(gold: str, answer: str, verify: Verify, level: int) -> bool:
    if level > 8:
        return False
    gold, answer = bare(gold), bare(answer)
    if _key(gold) == _key(answer):
        return True
    for canonical in (clocks_and_bases.time, clocks_and_bases.base):
        if canonical(gold) or canonical(answer):
            return canonical(gold) == canonical(answer)
    number = numbers.parse(gold, words=False, loose_units=False)
    other = numbers.parse(answer, words=number is not None, loose_units=False)
    if number and other:
        return numbers.same(number, other) and _same_variable(gold, answer)
    if _LETTER.fullmatch(gold) and _LETTER.fullmatch(answer):
        return choices.gold_letter(gold) == choices.letter(answer)

    def equal(one: str, two: str) -> bool:
        return _same(one, two, verify, level + 1)

    as_intervals = intervals.same(gold, answer, equal)
    if as_intervals is not None:
        return as_intervals
    parts, others = union(gold), union(answer)
    if len(parts) > 1 or len(others) > 1:
        return _match(parts, others, equal)
    rows, other_rows = matrix(gold), matrix(answer)
    if rows or other_rows:
        return rows is not None and other_rows is not None and _same_matrix(rows, other_rows, equal)
    first = None if number else sequence(gold)
    second = None if other else sequence(answer)
    for one, two in ((first, gold), (second, answer)):
        if one and len(one[1]) == 1 and one[0] == "⦃⦄" and one[1][0] != "⦃⦄":  # a set of one element is its element
            return equal(one[1][0], answer if two is gold else gold)
    if first or second:
        return first is not None and second is not None and _same_sequence(first, second, equal)
    return _same_atom(_spelled(number, gold), _spelled(other, answer), verify)


def _key(text: str) -> str:
    """Two texts of one key are the same answer."""
    words = WORD.search(COMMAND.sub(" ", text))
    if not words:
        return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text.rstrip("."))
    text = _ARTICLE.sub("", re.sub(r"\s+", " ", text.rstrip(".")), count=1).casefold()
    return text.removesuffix("s") if re.fullmatch(r"[a-z' -]{4,}", text) else text


def _spelled(number: numbers.Number | None, text: str) -> str:
    """A number without thousands groups, mixed fractions and the like, with its unit behind a space."""
    if number is None or number.percent or number.unit in {*units.CURRENCY, "degree"}:
        return text
    value: Fraction = number.value
    bare = str(value.numerator) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    return f"{bare} {number.unit}".strip()


def _same_sequence(first: tuple[str, list[str]], second: tuple[str, list[str]], equal: Verify) -> bool:
    (ours, items), (theirs, others) = first, second
    if ours in ("", "⦃⦄"):
        return theirs in ("", "⦃⦄") and _match(items, others, equal)
    return ours == theirs and len(items) == len(others) and all(map(equal, items, others))


def _same_matrix(rows: list[list[str]], others: list[list[str]], equal: Verify) -> bool:
    cells, other_cells = [cell for row in rows for cell in row], [cell for row in others for cell in row]
    shapes = [len(row) for row in rows] == [len(row) for row in others]
    return shapes and len(cells) <= MOST_ITEMS and all(map(equal, cells, other_cells))


def _match(ours: list[str], theirs: list[str], equal: Verify) -> bool:
    """Whether two unordered lists hold the same; a repeated item counts once."""
    wanted, given = {_key(item): item for item in ours}, {_key(item): item for item in theirs}
    if len(wanted) != len(given) or len(wanted) > MOST_ITEMS:
        return False
    left = [item for key, item in given.items() if key not in wanted]
    for item in (item for key, item in wanted.items() if key not in given):
        found = next((other for other in left if equal(item, other)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _same_variable(gold: str, answer: str) -> bool:
    ours, theirs = ASSIGN.fullmatch(gold), ASSIGN.fullmatch(answer)
    if not (ours and theirs and _SYMBOL.fullmatch(ours[1]) and _SYMBOL.fullmatch(theirs[1])):
        return True
    return sorted(ours[1]) == sorted(theirs[1]) or len(ours[1]) != len(theirs[1])


def _same_atom(gold: str, answer: str, verify: Verify) -> bool:
    ours, theirs = ASSIGN.fullmatch(gold), ASSIGN.fullmatch(answer)
    if ours and theirs:
        named = _key(ours[1]) == _key(theirs[1]) or (
            "y" in (ours[1], theirs[1]) and _FUNCTION.fullmatch(ours[1] + theirs[1])
        )
        return bool(named) and _same_plain(ours[2], theirs[2], verify)
    if theirs and "=" not in gold and not intervals.INEQUALITY.fullmatch(gold):
        if theirs[1] in symbols(gold) or theirs[1].lstrip("\\") in FUNCTIONS:
            return False
        return _same_plain(gold, unwrapped(theirs[2].rpartition("=")[2]), verify)
    if ours:
        if "=" not in answer and ours[1][0] not in symbols(ours[2]):
            return _same_plain(ours[2], answer, verify)
        return "=" in answer and decided(gold, answer, verify)
    if "=" in answer and "=" not in gold and not symbols(answer):  # 6/3 = 2
        return _same_plain(gold, answer.rpartition("=")[2].strip(), verify)
    return _same_plain(gold, answer, verify)


def _same_plain(gold: str, answer: str, verify: Verify) -> bool:
    (gold, ours), (answer, theirs) = _unit(bare(gold)), _unit(bare(answer))
    if units.conflict(ours, theirs):
        return False
    if _key(gold) == _key(answer):
        return True
    number = numbers.parse(gold, words=False, loose_units=False)
    other = numbers.parse(answer, words=False, loose_units=False)
    if number and other:
        return numbers.same(number, other)
    return decided(gold, answer, verify)


def _unit(text: str) -> tuple[str, str]:
    """A quantity -> the expression and its unit."""
    degrees = re.fullmatch(r"(.+?)\s*°", text)
    if degrees and not _ANGLE_FUNCTION.search(text):
        return degrees[1], "degree"
    found = _UNIT_AT_END.fullmatch(text)
    if not found or len(found[2]) < 2 or found[2].lower() in FUNCTIONS:
        return text, ""
    name = units.canonical(found[2])
    known = name is not None and all(word.isdigit() or word in units.KNOWN for word in re.split(r"[ /^]", name))
    return (found[1], name) if name and known else (text, "")
