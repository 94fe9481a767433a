"""Brackets: how deep, where they close, and the lists, tuples, sets, unions and matrices that they make."""

from __future__ import annotations

import re

DEEPEST = 50
"""Deepest nesting of brackets that is looked at."""
MOST_ITEMS = 64
"""Longest list that is compared."""
OPEN, CLOSE = "([{⦃", ")]}⦄"
ASSIGN = re.compile(
    r"((?:\\?(?:sin|cos|tan)\s*)?(?:m?(?:∠|\\angle)\s*)?(?:\\?[A-Za-z]+)(?:_\w+|_\{\w+\})?(?:\^\{-1\})?(?:\([a-z](?:,\s*[a-z])*\))?)"
    r"\s*(?:=|∈)\s*(?!=)(.+)",
    re.DOTALL,
)
"""A name, and what it is said to be."""
_JOIN = re.compile(r"\s*,?\s+(?:and|or)\s+|\s*;\s*|,", re.IGNORECASE)
_COORDINATES = re.compile(r"\(\s*([a-z\\]+(?:\s*,\s*[a-z\\]+)+)\s*\)\s*=\s*(?=\()")
_ROW_SPACE = re.compile(r"\\\\\s*\[-?[\d.]+\s*[a-z]{2}\]")
_MATRIX = re.compile(r"\\begin\{pmatrix\}((?:(?!\\begin).)*)\\end\{pmatrix\}", re.DOTALL)


def bare(text: str) -> str:
    """Without parentheses or braces that hold one whole atom."""
    text = text.strip()
    for _ in range(DEEPEST):
        inner = text[1:-1].strip()
        if not inner or text[0] + text[-1] not in ("()", "{}") or not _is_bracketed(text):
            break
        if text[0] == "(" and (len(split(inner, ",")) > 1 or re.fullmatch(r"[A-J]", inner)):
            break
        text = inner
    return text


def depth(text: str) -> int | None:
    """Deepest nesting, or None if it is too deep or a brace is not closed."""
    depth = deepest = braces = 0
    for sign in text:
        if sign in OPEN:
            depth += 1
            braces += sign in "{⦃"
            deepest = max(deepest, depth)
        elif sign in CLOSE:
            depth -= 1
            braces -= sign in "}⦄"
    return deepest if deepest <= DEEPEST and braces == 0 and depth == 0 else None


def split(text: str, separator: str) -> list[str]:
    """The parts between separators that stand outside all brackets."""
    return _parts(text, re.compile(re.escape(separator)))


def union(text: str) -> list[str]:
    """The parts of a union; the text alone if it is none."""
    assigned = ASSIGN.fullmatch(text)
    return split(assigned[2] if assigned and "∪" in assigned[2] else text, "∪")


def sequence(text: str) -> tuple[str, list[str]] | None:
    """Brackets ("" for none) and items of a list, tuple, interval or set; None for a single item."""
    assigned = ASSIGN.fullmatch(text)
    if assigned and assigned[2][0] in "([⦃" and _is_bracketed(assigned[2]):
        text = assigned[2]
    named = _COORDINATES.match(text)
    if named and _in_order(named[1]):
        text = text[named.end() :]
    if re.match(r"[A-Z]\([^()]*,", text):  # a point by its name
        text = text[1:]
    if text and text[0] in "([⦃" and _is_bracketed(text):
        items = [item for item in split(text[1:-1], ",") if item]
        if text[0] == "⦃":
            return "⦃⦄", [item for part in items for item in _both_signs(part)]
        if len(items) > 1:
            return text[0] + text[-1], items
    items = [item for part in _parts(text, _JOIN) if part for item in _both_signs(part)]
    return ("", items) if 1 < len(items) <= MOST_ITEMS else None


def matrix(text: str) -> list[list[str]] | None:
    """Rows of a matrix, or None."""
    assigned = ASSIGN.fullmatch(text)
    found = _MATRIX.fullmatch((assigned[2] if assigned else text).strip())
    if not found:
        return None
    rows = _ROW_SPACE.sub(r"\\\\", found[1]).strip().removesuffix("\\\\").split("\\\\")
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _parts(text: str, separator: re.Pattern[str]) -> list[str]:
    parts: list[str] = []
    start = seen = depth = 0
    for found in separator.finditer(text):
        depth += sum((sign in OPEN) - (sign in CLOSE) for sign in text[seen : found.start()])
        seen = found.start()
        if depth == 0:
            parts.append(text[start : found.start()].strip())
            start = found.end()
    return [*parts, text[start:].strip()]


def _is_bracketed(text: str) -> bool:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in OPEN) - (sign in CLOSE)
        if depth == 0:
            return place == len(text) - 1 and sign in CLOSE
    return False


def _in_order(names: str) -> bool:
    """Whether coordinates are named in the usual order, so that the names add nothing."""
    found = [name.strip().lstrip("\\") for name in names.split(",")]
    return found == sorted(found)


def _both_signs(text: str) -> list[str]:
    if text.count("±") != 1:
        return [text]
    before, after = text.split("±")
    plus = "+" if before.strip() and not before.rstrip().endswith("=") else ""
    return [f"{before}{plus}{after}", f"{before}-{after}"]
