"""Letters of multiple choice."""

from __future__ import annotations

import re

from rewards.grading.notation import plain, unwrapped

_GOLD = re.compile(r"[(\[]?([A-Ja-j])[)\].:]?")
_LEAD = re.compile(
    r"(?:the |my )?(?:(?:final |correct |best |right )?(?:answer|option|choice)s?(?: is| would be)?"
    r"|选项?|故选|应选|答案[是为]?)\s*[::]?\s*",
    re.IGNORECASE,
)
_FIRST = re.compile(
    r"[(\[]([A-Ja-j])[)\]]|([A-J])(?=[).:,]|$)|([a-j])(?=[).:]|$)|([B-HJ])(?![A-Za-z0-9'])"
    r"|(A)(?= (?:is|because|since)\b)"
)
_LETTER = re.compile(r"(?<![A-Za-z0-9'\\])([A-J])(?![A-Za-z0-9'])")
_ARTICLE = re.compile(r"\s+(?!and\b|or\b|is\b|to\b)[a-z]")
_HEDGE = re.compile(
    r"\b(?:or|not|neither|nor|either|both|except|maybe|perhaps|possibly|unsure|isn't|incorrect|wrong|between|none|"
    r"all of|cannot|could|might|guess)\b|[/|]|或|不|和", re.IGNORECASE
)  # fmt: skip


def gold_letter(gold: str) -> str | None:
    """The letter that a gold is, or None.

    >>> gold_letter("(B)"), gold_letter("both")
    ('B', None)
    """
    found = _GOLD.fullmatch(unwrapped(plain(gold)).strip())
    return found[1].upper() if found else None


def letter(text: str, strict: bool = False) -> str | None:
    """The one letter that a text chooses; None for none, two, a hedge, or the article "A".

    Args:
        text: An extracted answer.
        strict: The letter must come first.
    """
    text = unwrapped(plain(unwrapped(text))).replace("*", "").strip()
    text = text[_end(_LEAD, text) :].strip().lstrip("$").strip()
    found = _FIRST.match(text)
    letters = {m[1] for m in _LETTER.finditer(text) if not (m[1] in "AI" and _ARTICLE.match(text, m.end()))}
    if found:
        chosen = (found[1] or found[2] or found[3] or found[4] or found[5]).upper()
        rest = text[found.end() :]
        marked = rest[:1] in {".", ")", ":"} or found[1] is not None  # what follows is the option's own text
        others = letters - {chosen}
        if marked and rest.lstrip(".):, ")[:1] != "":
            body = rest.lstrip(".):, ")
            return None if re.search(r"\b[A-J][).:]|[(\[][A-J][)\]]|\b(?:or|and|/) [(\[]?[A-J]\b", body) or (
                re.match(r"(?:or|and|not)\b|[/|]", body, re.IGNORECASE)
            ) else chosen  # fmt: skip
        return None if others or _HEDGE.search(rest) else chosen
    if strict or len(letters) != 1 or _HEDGE.search(text) or len(text) > 160:
        return None
    return letters.pop()


def _end(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.match(text)
    return found.end() if found else 0
