"""These functions read answers that are chosen: the letter of an option, yes or no, and the words of CLEVR."""

from __future__ import annotations

import re

from rewards.grading.text import canonical
from rewards.grading.units import DOUBTS

_LEAD = re.compile(
    r"""(?:i[ ]think,?[ ])?
    (?: (?:(?:i(?:'d|[ ]would)?|we)[ ])? (?:choose|pick|select|go[ ]with)[ ]
      | it(?:'s|[ ]is|[ ]must[ ]be)[ ] | only[ ] )?
    (?:the[ ]|my[ ])?
    (?: (?:correct[ ]|best[ ]|right[ ])? (?:ans\b\.?|answer|option|choice|letter)s? (?:[ ]is|[ ]would[ ]be)?
      | 本题选|选[项择]?|故选|应选|答案[是为]? )? \s*:?\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_FIRST = re.compile(r"[(\[]([A-Ja-j])[)\]]|([A-J])(?![A-Za-z0-9'])|([a-j])(?=[).:](?![a-z])|$)")
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
_ARTICLE = re.compile(r"\s+(?!(?:and|or|is|to|also|too|works|may|might|could|would|seems|because|since)\b)[a-z]")
_DOUBT = r"\b(?:or|be|option|choose|answer is|wait|actually|maybe) [(\[]?[A-J]\b"
"""This matches another choice inside the reasons for the chosen option."""
_OTHER = re.compile(
    rf"""(?i:^(?:(?:or|and|no|wait|actually)\b|[/|?])) | \b[A-J][).:] | [(\[][A-J][)\]]
      | (?:\b(?:and|not)|/)[ ][(\[]?[A-J]\b | [.,;]\s*[A-J]$ | {_DOUBT.replace(" ", "[ ]")}""",
    re.VERBOSE,
)
"""This matches another choice inside the text of the chosen option."""
_GOES_ON = re.compile(
    r"""\s*(?: $ | ! | 选项 | 正确 | [,;(](?!\s*$) | [-—–]\s )
      | \s+(?:is|are|because|since|as|for|with|would|was|seems|must|has)\b | \s+[\d\\$√]""",
    re.VERBOSE,
)
"""This matches what may follow a letter that has no mark such as a full stop."""
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


def gold_letter(gold: str) -> str | None:
    """Returns the letter that a gold such as "(B)" consists of, or None."""
    found = re.fullmatch(r"[(\[]?([A-Ja-j])[)\].:]?", canonical(gold))
    return found[1].upper() if found else None


def names_options(text: str) -> bool:
    """Returns whether a text chooses an option, or has only letters and the words between them, such as "A or B"."""
    return letter(text) is not None or bool(_ONLY_LETTERS.fullmatch(canonical(text)))


def letter(text: str, is_strict: bool = False) -> str | None:
    """Returns the one letter that a text chooses, or None for two letters, a doubt, or the article "A".

    With `is_strict`, the letter must come first.
    """
    text = canonical(text).replace("*", "")
    text = re.sub(r"(?<=[\w).])\s*[,;(]\s*(?:and )?not [(\[]?[A-J][)\]]?\)?\.?$", "", text).strip()  # "B, not C"
    text, *reasons = _EXPLANATION.split(_LEAD.sub("", text, count=1), maxsplit=1)
    if reasons and re.search(_DOUBT, reasons[0]):
        return None
    text = text.strip().lstrip("$' ")
    found = _FIRST.match(text)
    letters = {m[1] for m in _LETTER.finditer(text) if not (m[1] in "AI" and _ARTICLE.match(text, m.end()))}
    rest = text[found.end() :] if found else text
    is_hedged = re.search("[/|?或不和]", rest) or DOUBTS & set(re.findall("[a-z']+", rest.lower()))
    if not found:
        is_alone = not is_strict and len(letters) == 1 and len(text) <= 160 and _NAMED.search(text)
        return letters.pop() if is_alone and not is_hedged else None
    chosen = found[found.lastindex or 0].upper()
    if found[1] or rest[:1] in {".", ")", ":"}:
        return None if rest.startswith("..") or _OTHER.search(rest.lstrip(".):, '$")) else chosen
    is_hedged = is_hedged or letters - {chosen} or (chosen == "A" and _ARTICLE.match(rest))
    return None if is_hedged or not _GOES_ON.match(rest.lstrip("$'")) else chosen


def tokens(text: str) -> list[str]:
    """Returns the words of an extracted answer in small letters."""
    return re.findall(r"[^\W_]+(?:'[a-z]+)?", canonical(text).casefold())


def same_yes_no(gold: str, text: str) -> bool:
    """Returns whether a text begins with the word of the gold, yes or no, and does not contain the other."""
    ours, theirs = tokens(gold), tokens(text)
    is_said = theirs[:1] == ours and len(theirs) <= 30 and bool(_SAID.match(canonical(text).lstrip("*(")))
    return is_said and not {"yes", "no", "maybe", "perhaps", "unsure", "or", "wait"} & {*theirs} - {*ours}


def same_word(gold: str, text: str) -> bool:
    """Returns whether a text has the words of the gold, or a synonym of CLEVR and no doubt."""
    ours, theirs = tokens(gold), tokens(text)
    if "?" in text or len(theirs) > 12:
        return False
    for names in _CLASSES:
        wanted = names.get(" ".join(ours).removesuffix("s"))
        if wanted:
            said = [names.get(word.removesuffix("s")) for word in theirs]
            is_said = (len(theirs) <= 6 or said[-1] == wanted) and {*said} - {None} == {wanted}
            return is_said and not DOUBTS & set(theirs) and not re.search(r"\band\s+\d", text)
    while ours != theirs and theirs[:1] and theirs[0] in {"the", "a", "an", "it", "is", "it's"}:
        theirs = theirs[1:]
    return ours == theirs
