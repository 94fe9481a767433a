"""Brackets: how deep, where they close, and the lists, tuples, sets and unions that they make."""

from __future__ import annotations

import re

DEEPEST = 50
"""Deepest nesting of brackets that is looked at."""
MOST_ITEMS = 64

_OPEN, _CLOSE = "([{⦃", ")]}⦄"
_SPLIT_WORD = re.compile(r"\s*,?\s+(?:and|or)\s+|\s*;\s*", re.IGNORECASE)
ASSIGN = re.compile(r"((?:\\?[A-Za-z]+|[A-Za-z])(?:_\w+)?(?:\([a-z](?:,[a-z])*\))?)\s*(?:=|∈)\s*(?!=)(.+)", re.DOTALL)


def bare(text: str) -> str:
    """Without parentheses or braces that hold one whole atom."""
    text = text.strip()
    for _ in range(DEEPEST):
        inner = text[1:-1].strip()
        if not inner or text[0] + text[-1] not in ("()", "{}") or _closing(text) != len(text) - 1:
            break
        if text[0] == "(" and (len(split(inner, ",")) > 1 or re.fullmatch(r"[A-J]", inner)):
            break
        text = inner
    return text


def depth(text: str) -> int | None:
    """Deepest nesting, or None if it is too deep or a brace is not closed."""
    depth = deepest = braces = 0
    for sign in text:
        if sign in _OPEN:
            depth += 1
            braces += sign in "{⦃"
            deepest = max(deepest, depth)
        elif sign in _CLOSE:
            depth -= 1
            braces -= sign in "}⦄"
    return deepest if deepest <= DEEPEST and braces == 0 and depth == 0 else None


def _closing(text: str) -> int:
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if depth == 0:
            return place
    return -1


def split(text: str, separator: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if sign == separator and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def union(text: str) -> list[str]:
    assigned = ASSIGN.fullmatch(text)
    return split(assigned[2] if assigned and "∪" in assigned[2] else text, "∪")


def sequence(text: str) -> tuple[str, list[str]] | None:
    """Brackets ("" for none) and items of a list, tuple, interval or set."""
    assigned = ASSIGN.fullmatch(text)
    if assigned and assigned[2][0] in "([⦃" and _closing(assigned[2]) == len(assigned[2]) - 1:
        text = assigned[2]
    if text and text[0] in "([⦃" and _closing_any(text):
        inner = text[1:-1].strip()
        items = [item for item in split(inner, ",") if item]
        if text[0] == "⦃" or len(items) > 1:
            return text[0] + text[-1], [item for part in items for item in _both_signs(part)] if text[
                0
            ] == "⦃" else items
    if _depth_free_word(text):
        pieces = _SPLIT_WORD.split(text)
        items = [item for piece in pieces for item in split(piece, ",") if item]
    else:
        items = [item for item in split(text, ",") if item]
    items = [item for part in items for item in _both_signs(part)]
    return ("", items) if 1 < len(items) <= MOST_ITEMS else None


def _closing_any(text: str) -> bool:
    return text[-1] in ")]⦄" and _closing(text) == len(text) - 1


def _depth_free_word(text: str) -> bool:
    return (bool(_SPLIT_WORD.search(text)) and "(" not in text and "[" not in text) or bool(
        re.search(r"[)\]] (?:and|or) [(\[]", text)
    )


def _both_signs(text: str) -> list[str]:
    if text.count("±") != 1:
        return [text]
    before, after = text.split("±")
    return [
        f"{before}+{after}" if before.strip() and not before.rstrip().endswith("=") else before + after,
        f"{before}-{after}",
    ]
