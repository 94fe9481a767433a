"""Units and currencies get one name each."""

from __future__ import annotations

import re
from itertools import pairwise

_NAMES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre 厘米", "m": "meter metre 米",
    "km": "kilometer kilometre 千米 公里", "inch": "in inches", "ft": "foot feet", "yd": "yard", "mile": "mi",
    "mg": "milligram", "g": "gram 克", "kg": "kilogram kilo 千克", "lb": "lbs pound", "oz": "ounce", "ton": "tonne",
    "ml": "milliliter millilitre", "l": "liter litre 升", "gallon": "gal", "quart": "qt", "pint": "pt", "cup": "",
    "s": "sec second 秒", "minute": "min mins 分钟", "h": "hr hrs hour 小时", "day": "天", "week": "wk", "month": "",
    "year": "yr", "degree": "° deg 度", "celsius": "°c", "fahrenheit": "°f",
    "radian": "rad", "mph": "", "km/h": "kmh kph", "unit": "", "/": "per",
    "$": "dollar usd us$ buck", "cent": "¢ penny pennies", "€": "euro eur", "£": "gbp", "¥": "yen jpy yuan rmb 元",
    "₹": "rupee inr rs", "n": "newton", "j": "joule", "w": "watt", "hz": "hertz", "v": "volt", "pa": "pascal",
}  # fmt: skip
KNOWN = {alias: name for name, aliases in _NAMES.items() for alias in (name, *aliases.split())}
TOGETHER = "seconds together"
"""The unit of a time with several units, such as 2 h 30 min, which never equals a number without a unit."""
SECONDS = {TOGETHER: 1, "s": 1, "minute": 60, "h": 3600, "day": 86400}
CURRENCY = "$€£¥₹¢"
DOUBTS = frozenset(
    "or not no never hardly barely scarcely neither nor either both except maybe perhaps possibly probably unsure "
    "unknown unless wrong but incorrect false between cannot can't isn't could might may guess than if depends versus "
    "vs without".split()
)
"""These words leave open which answer is meant, or say that it is another one."""
HEDGES = DOUBTS | frozenset(
    "up closer next within far different near close above below under beyond anything basis and plus minus times "
    "divided over to squared cubed factorial dozen dozens half halves third thirds quarter quarters hundred hundreds "
    "thousand thousands million millions billion billions trillion percent power root mod modulo choose negative "
    "least most about nearly almost roughly around point double twice triple pi score pair pairs true undefined "
    "infinity couple few several multiplied print eval exec import return lambda equals through until".split()
)
"""These words beside a number make it another number, or no definite one."""

_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3", "平方": "^2", "立方": "^3"}
_KNOWN_NAMES = {name + power for name in KNOWN.values() for power in ("", "^2", "^3")}
_RARE = {"n", "j", "w", "v"}  # their letters are more often variables
_NO_NOUNS = frozenset("sinh cosh tanh arcsin arccos arctan sqrt frac theta alpha beta gamma base".split())
_TOKEN = re.compile(r"[A-Za-z$€£¥₹¢°'\u4e00-\u9fff]+(?:\^?\{?[23]\}?(?!\d))?|[/.*-]|\S")
_POWER = re.compile(r"(.+?)\^?\{?([23])\}?")
_CJK = re.compile(
    "(?:(?![或和不至到万亿千百十半倍打双对分之多约余来几又点成折零一二三四五六七八九两])[\u3040-\u30ff\u4e00-\u9fff]){1,4}"
)
_SAME = {"mile/h": "mph", "degree celsius": "celsius", "degree fahrenheit": "fahrenheit", "us $": "$"}
KIND = re.compile(r"\b(?:different|distinct|possible)\s+(?=[a-z]{3})(?!(?:from|than|to)\b)", re.IGNORECASE)
"""These words say how things are counted, and change no number."""


def canonical(text: str) -> str | None:
    """Returns one name for a unit such as ``km/h``, ``square cm`` or ``eggs``, or None for what is no unit."""
    text = KIND.sub("", re.sub("(平方|立方)(?=.)", r"\1 ", text))
    words = [word.lower() for word in _TOKEN.findall(text) if word not in ".-"]
    names = [_name(word, _POWERS.get(before, "")) for before, word in pairwise(["", *words]) if word not in _POWERS]
    if len(words) > 8 or None in names or {*words[-1:]} & {"/", "per", *_POWERS}:
        return None
    name = " ".join(filter(None, names)).replace(" / ", "/")
    return _SAME.get(name, name)


def _name(word: str, power: str) -> str | None:
    found = _POWER.fullmatch(word)
    stem, power = (found[1], "^" + found[2]) if found else (word, power)
    for candidate in (stem, stem.removesuffix("s"), stem.removesuffix("es")):
        if candidate in KNOWN and not (len(candidate) == 1 and candidate != stem):
            return KNOWN[candidate] + power
    if _CJK.fullmatch(stem) or stem in ("of", "us"):
        return stem + power
    is_noun = len(stem) > 2 and not found and stem.replace("'", "").isalpha() and stem not in HEDGES
    return stem.removesuffix("s") + power if is_noun else None


def is_plausible(unit: str, text: str, glued: bool, loose: bool) -> bool:
    """Returns whether a text behind a number is its unit, and neither a factor nor a word such as "of".

    The unit is the canonical name of the text. No space stands before a `glued` text. In a sentence (`loose`) 5m is a
    length, and in a formula it is a product.
    """
    names = set(filter(None, re.split("[ /]", unit)))
    if re.match(r"/\s*\w(?!\w)", text):  # 12/n is a quotient
        return False
    if glued:
        is_letter = re.match(r"[A-Za-z](?![A-Za-z])", text)
        return names <= _KNOWN_NAMES and not (is_letter and (not loose or unit in _RARE or text[0] == "M"))
    return loose or all(
        re.search("[aeiou]", name) and name not in _NO_NOUNS and (len(name) > 3 or name + "s" in text.lower())
        for name in names - _KNOWN_NAMES
    )


def conflict(gold: str, found: str) -> bool:
    """Returns whether two canonical units cannot mean the same. A missing unit conflicts with no single unit."""
    if gold == found or ("" in (gold, found) and TOGETHER not in (gold, found)):
        return False
    ours, theirs = set(re.split(r"[ /]", gold)), set(re.split(r"[ /]", found))
    return bool((ours | theirs) & (set(KNOWN.values()) - {"unit"})) or "/" in gold + found or not ours & theirs
