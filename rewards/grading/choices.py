"""These functions read which letter of a multiple choice question a text chooses."""

from __future__ import annotations

import re

from rewards.grading import units
from rewards.grading.latex import canonical

_GOLD = re.compile(r"[(\[]?([A-Ja-j])[)\].:]?")
_LEAD = re.compile(
    r"""(?:(?:so|therefore|thus|hence|i[ ]think),?[ ])*
    (?: (?:(?:i(?:'d|[ ]would)?|we)[ ])? (?:choose|pick|select|go[ ]with)[ ]
      | it(?:'s|[ ]is|[ ]must[ ]be)[ ] | only[ ] )?
    (?:the[ ]|my[ ])?
    (?: (?:final[ ]|correct[ ]|best[ ]|right[ ])?
        (?:ans\b\.?|answer|option|choice|letter)s? (?:[ ]is|[ ]would[ ]be)?
      | 本题选|选[项择]?|故选|应选|答案[是为]? )? \s*:?\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_FIRST = re.compile(r"[(\[]([A-Ja-j])[)\]]|([A-J])(?![A-Za-z0-9'])|([a-j])(?=[).:](?![a-z])|$)")
_DENIED = re.compile(r"(?<=[\w).])\s*[,;(]\s*(?:and )?not [(\[]?[A-J][)\]]?\)?\.?$")
"""This matches an option that the text rules out."""
_EXPLANATION = re.compile(r"\n\s*[*_]*(?:explanation|reason|because|rationale)", re.IGNORECASE)
_LETTER = re.compile(r"(?<![A-Za-z0-9'\\∠])(?<!∠ )([A-J])(?![A-Za-z0-9']|\s*=)")
_NAMED = re.compile(
    r"""\b(?i: options?|choice|answer|letter|is|be|it's|choose|pick|select|with|so|therefore|thus|hence|only|clearly
      |definitely|indeed )\W{1,3}[A-J](?![A-Za-z0-9']) | 选 | ^\W*[A-J](?![A-Za-z0-9'])""",
    re.VERBOSE,
)
"""This matches a letter that stands for an option, and not for an angle or a point."""
_ONLY_LETTERS = re.compile(
    r"""(?: [\s,;/|&.()\[\]:?+*-] | [A-J](?![A-Za-z])
      | (?i: and|or|not|both|neither|nor|either|none|all|of|the|above|options?|answers?|is )\b )+""",
    re.VERBOSE,
)
_ARTICLE = re.compile(r"\s+(?!(?:and|or|is|to|also|too|works|may|might|could|would|seems)\b)[a-z]")
_OPTION = re.compile(r"\b[A-J][).:]|[(\[][A-J][)\]]|\b(?:or|and|not|be|option|choose|/) [(\[]?[A-J]\b|[.,;]\s*[A-J]$")
"""This matches another letter inside the text of the chosen option."""
_DOUBT = re.compile(r"\b(?:or|be|option|choose|answer is|wait|actually|maybe) [(\[]?[A-J]\b")
"""This matches another choice inside the reasons for the chosen option."""
_TAKEN_BACK = re.compile(r"(?:or|and|no|wait|actually)\b|not\s+[(\[]?[A-J]\b|[/|?]", re.IGNORECASE)
_GOES_ON = re.compile(
    r"""\s*(?: $ | ! | 选项 | 正确 | [,;(](?!\s*$) | [-—–]\s )
      | \s+(?:is|are|because|since|as|for|with|would|was|seems|must|has)\b | \s+[\d\\$√]""",
    re.VERBOSE,
)
"""This matches what may follow a letter that has no mark such as a full stop."""
_HEDGING_SIGN = re.compile("[/|?或不和]")


def gold_letter(gold: str) -> str | None:
    """Returns the letter that a gold such as "(B)" consists of, or None."""
    found = _GOLD.fullmatch(canonical(gold))
    return found[1].upper() if found else None


def names_options(text: str) -> bool:
    """Returns whether a text chooses an option, or has only letters and the words between them, such as "A or B"."""
    return letter(text) is not None or bool(_ONLY_LETTERS.fullmatch(canonical(text)))


def letter(text: str, is_strict: bool = False) -> str | None:
    """Returns the one letter that a text chooses, or None for two letters, a doubt, or the article "A".

    With `is_strict`, the letter must come first.
    """
    text = _DENIED.sub("", canonical(text).replace("*", "")).strip()
    lead = _LEAD.match(text)
    text, *reasons = _EXPLANATION.split(text[lead.end() if lead else 0 :], maxsplit=1)
    if any(map(_DOUBT.search, reasons)):
        return None
    text = text.strip().lstrip("$'").strip()
    found = _FIRST.match(text)
    letters = {m[1] for m in _LETTER.finditer(text) if not (m[1] in "AI" and _ARTICLE.match(text, m.end()))}
    if not found:
        is_alone = not is_strict and len(letters) == 1 and len(text) <= 160 and _NAMED.search(text)
        return letters.pop() if is_alone and not _hedges(text) else None
    chosen = (found[1] or found[2] or found[3]).upper()
    rest = text[found.end() :]
    if found[1] or rest[:1] in {".", ")", ":"}:
        option = rest.lstrip(".):, '$")
        return None if rest.startswith("..") or _OPTION.search(option) or _TAKEN_BACK.match(option) else chosen
    is_article = chosen == "A" and _ARTICLE.match(rest) and not re.match(r"\s+(?:because|since)\b", rest)
    is_hedged = letters - {chosen} or _hedges(rest) or is_article
    return None if is_hedged or not _GOES_ON.match(rest.lstrip("$'")) else chosen


def _hedges(text: str) -> bool:
    return bool(_HEDGING_SIGN.search(text) or units.DOUBTS & set(re.findall("[a-z']+", text.lower())))
