"""Answers of words are compared: yes, no, and the words that answer CLEVR questions."""

from __future__ import annotations

import re

from rewards.grading.latex import canonical
from rewards.grading.units import DOUBTS

_SAID = re.compile(
    r"(?:yes|no)\b(?!\.\s*\d|-\w)[*]*\s*(?:$|[^\w\s?]|(?:it|there|they|the|this|that|these|those|because|since|both|all)\b)",
    re.IGNORECASE,
)
_CLASSES = (
    {"gray": "gray", "grey": "gray", **{c: c for c in ("red", "blue", "green", "brown", "purple", "cyan", "yellow")}},
    {"cube": "cube", "block": "cube", "sphere": "sphere", "ball": "sphere", "cylinder": "cylinder"},
    {"large": "large", "big": "large", "small": "small", "tiny": "small"},
    {"rubber": "rubber", "matte": "rubber", "metal": "metal", "metallic": "metal", "shiny": "metal"},
)
"""CLEVR's colours, shapes, sizes and materials with their synonyms (Johnson et al., 2017)."""

_AND_NUMBER = re.compile(r"\band\s+\d")
"""This matches a second answer, of another kind."""


def tokens(text: str) -> list[str]:
    """Returns the words of an extracted answer in small letters."""
    return re.findall(r"[^\W_]+(?:'[a-z]+)?", canonical(text).casefold())


def yes_or_no(text: str) -> str | None:
    """Returns "yes" or "no" if the text is that one word, and else None."""
    found = tokens(text)
    return found[0] if found in (["yes"], ["no"]) else None


def same_yes_no(gold: str, text: str) -> bool:
    """Returns whether a text begins with the gold "yes" or "no" and does not contain the other."""
    found = tokens(text)
    if found[:1] != [gold] or len(found) > 30 or not _SAID.match(canonical(text).lstrip("*(")):
        return False
    return not {"yes", "no", "maybe", "perhaps", "unsure", "or", "wait"} & set(found[1:]) - {gold}


def same_word(gold: str, text: str) -> bool:
    """Returns whether a text has the words of the gold, or a synonym of CLEVR and no doubt."""
    ours, theirs = tokens(gold), tokens(text)
    if not ours or "?" in text or len(theirs) > 12:
        return False
    for names in _CLASSES:
        wanted = names.get(ours[0].removesuffix("s")) if len(ours) == 1 else None
        if wanted:
            said = [names.get(word.removesuffix("s")) for word in theirs]
            found = {*said} - {None}
            is_said = len(theirs) <= 6 or said[-1] == wanted
            return is_said and found == {wanted} and not DOUBTS & set(theirs) and not _AND_NUMBER.search(text)
    while theirs and theirs[0] in {"the", "a", "an", "it", "is", "it's"} and ours != theirs:
        theirs = theirs[1:]
    return ours == theirs
