"""Numbers as people write and state them become exact fractions with units, which are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from fractions import Fraction
from typing import NamedTuple

from rewards.grading import units
from rewards.grading.expressions import FUNCTIONS, SMALL_WORDS, calculated, split
from rewards.grading.text import canonical, strip_wrapping

MAX_LENGTH = 320
"""Number of characters of the longest text that can be a number."""
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ONES = "one|two|three|four|five|six|seven|eight|nine"
_TEENS = "ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_VALUES = {word: value for value, word in enumerate(f"zero|{_ONES}|{_TEENS}".split("|"))}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS.split("|"), 2)} | {"a": 1, "an": 1}
_SIZES = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
          "eighth": 8, "ninth": 9, "tenth": 10}  # fmt: skip
_SMALL = rf"(?:(?:{_TENS})(?:[ -](?:{_ONES}))?|zero|{_ONES}|{_TEENS})"
_BELOW_THOUSAND = rf"(?:(?:a|{_SMALL}) hundred(?:(?: and)? {_SMALL})?|{_SMALL})"
_SCALED = rf"(?:a|{_BELOW_THOUSAND}) (?:thousand|million|billion|trillion)(?:,?(?: and)? {_BELOW_THOUSAND})*"
_PART = rf"(?:an?|{_ONES})[ -](?:{'|'.join(_SIZES)})s?"
_IN_WORDS = re.compile(
    rf"(?<![\w-])(negative |minus )?(?:({_PART})|({_SCALED}|{_BELOW_THOUSAND})(?: and ({_PART}))?)(?![\w-])",
    re.IGNORECASE,
)
_GROUPED = "|".join(rf"\d{{1,3}}(?:{sign}\d{{3}})+(?!{sign}?\d)" for sign in (",", "[ ]", "'", "_"))
_DIGITS = rf"(?:(?:{_GROUPED}|\d+)(?:\.\d*)?|\.\d+)"
_QUANTITY = re.compile(
    rf"""([-+]?) \s* ( (?:us|a|c)?[{units.CURRENCY}] | (?:rs\.?|usd|eur|gbp|inr)(?=[\s\d]) )? \s* ([-+]?) \s*
    (?: (?P<whole>\d+)\s+(?:and\s+)?(?=\d+\s*/\s*\d+(?![\d.,])) )?
    (?P<top>{_DIGITS}(?:e[-+]?\d{{1,3}}(?![\d.]))?) (?: \s*/\s*(?P<bottom>{_DIGITS}) )?
    (?:\s*(?P<scale>{"|".join(_SCALES)})\b)? (?P<percent>\s*(?:%|percent\b|per[ ]cent\b|percentage[ ]points?\b))?""",
    re.IGNORECASE | re.VERBOSE,
)
"""This matches -$1,080.5 or 7/2 or 3 1/2 or 1.5e3 or 5 million or 12%."""
_PLAINER: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\\frac\s*\{\s*([-+]?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}(?!\d)"), r" \1/\2"),
    (re.compile(r"(?<![\d.,])(\d{1,3}(?:\.\d{3})+),(\d{1,2})(?!\d)"), lambda m: f"{m[1].replace('.', '')}.{m[2]}"),
    (re.compile(r"(\d*\.(\d*))\\(?:overline|bar|dot)\s*\{?\s*(\d{1,30})\s*\}?"), lambda m: str(
        _decimal(f"0{m[1]}0") + Fraction(int(m[3]), (10 ** len(m[3]) - 1) * 10 ** len(m[2])))),
    (re.compile(r"(\s*(?:\*|[xX]\s+|[xX](?=10))\s*|(?<![\d.*]))10\s*\^\s*\{?\s*([-+]?\d{1,5})\s*\}?"),
     lambda m: f"{'' if m[1] else 1}e{m[2]}"),
)  # fmt: skip
"""Fractions, 2.450,00, repeating decimals and powers of ten are written as numerals above."""
_TIME_PARTS = re.compile(r"(?<=[a-z])\.?,?\s+(?:and\s+)?(?=\d)")
_PER_PART = re.compile(r"/|(?:per|each|a|in|every|total)\b", re.IGNORECASE)
NAME = re.compile(
    r"""(?:\\?(?:sin|cos|tan)\s*(?=[A-Z∠]))? (?:m?(?:∠|角|△)\s*)?
    (?: [A-Za-z] | (?<=∠)\d | [A-Z]{2,4} | \\[a-z]+
      | (?:[A-Za-z]{2,}[ ]){1,5} [A-Za-z]{2,} | sum | ans | [A-Z][a-z]{2} | [A-Za-z][a-z]{3,} )
    (?:_\w+ | _\{\w+\})? (?:\^\{-1\})? (?:\([a-z](?:,\s*[a-z])*\)|(?<=[fghP])\(-?\d+\))? :?""",
    re.VERBOSE,
)
"""This matches the name of a value. Letters such as xy are a product, so their equation is not solved."""
_LEFT_SIDE = re.compile(
    rf"""(?: (?:(?:[A-Za-z,']{{2,}}|a)[ ,]+)* (?:{NAME.pattern})?
      | [^\d=+*/^\\_(){{}}<>-]*? (?<![A-Za-z])(?P<calculation>[\d($.][\d\s+\-*/^().,$%°{{}}]*) )""",
    re.VERBOSE,
)
"""This matches the left side of a solved equation: words and a name, or words before a calculation."""
_TOKEN = re.compile(r"-?[$€£¥₹¢]?\d[\d.,/]*")
_WORD = re.compile(r"[A-Za-z']+")
_LABELS = frozenset(
    "page line box step question chapter figure problem option item row section part case equation table "
    "january february march april may june july august september october november december".split()
)
"""A number behind one of these words is a label and counts nothing."""
_PREPOSITIONS = frozenset("to for in at on by".split())
"""A sentence mentions a number behind one of these words, and does not state it."""
_SAID = re.compile(r".*(?:[A-Za-z]+ [A-Za-z]+|[A-Za-z]:|'s) ", re.DOTALL)
_STATED = re.compile(
    r"(?:so |therefore,? |thus,? |hence,? )?(?:the|it)\b[A-Za-z ,∠△]* (?:is|equals|measures) ([^.]+(?:\.\d[^.]*)?)\.?",
    re.IGNORECASE,
)
_SHORT_WORDS = SMALL_WORDS | {"a", "i", "s"} | {name for name in units.KNOWN if len(name) == 2}
_BEFORE = units.HEDGES - {"and", "to"}
_AROUND = units.HEDGES - {"and", "over", "to", "through", "around", "about", "most", "equals"}


class Number(NamedTuple):
    """An exact number with its percent sign and its canonical unit or currency, which is empty where there is none."""

    value: Fraction
    unit: str = ""
    percent: bool = False


def to_digits(text: str) -> str:
    """Returns the text with digits for numbers in words, such as 7/2 for "three and a half"."""
    return _IN_WORDS.sub(_digits, text)


def _digits(found: re.Match[str]) -> str:
    sign, part, whole, behind = (group.lower() if group else "" for group in found.groups())
    top, _, below = (part or behind).replace("-", " ").partition(" ")
    total = Fraction(_VALUES[top], _SIZES[below.removesuffix("s")]) if top else Fraction(0)
    current = 0
    for word in re.findall("[a-z]+", whole):
        if word == "hundred":
            current *= 100
        elif word in _SCALES:
            total, current = total + current * _SCALES[word], 0
        elif word != "and":
            current += _VALUES[word]
    return ("-" if sign else "") + str(total + current)


def spelled(text: str) -> str:
    """Returns the text in canonical spelling, with digits for words, and without GSM8K's calculations in ``<<>>``."""
    return to_digits(canonical(re.sub(r"<<[^<>\n]{0,200}>>", "", text)))


def parse(text: str) -> Number | None:
    """Returns the number that a text is, or None if it is more or less than one number."""
    if len(text) > MAX_LENGTH or "~~" in text:  # struck out
        return None
    text = re.sub(r"(?<=\S)\s*[,;(]\s*(?:and )?not \$?[\d.,]*\d\)?\.?$", "", spelled(text))  # "12, not 13"
    return solution(text, parse) if "=" in text else read(text)


def read(text: str, loose_units: bool = True) -> Number | None:
    """Returns the number that a :func:`spelled` text is, or None; with `loose_units` any noun is a unit."""
    if echo := re.fullmatch(r"([^()]+) \((\$?[\d.,]+)\)", text):  # "1,200 eggs (1200)"
        one, two = read(echo[1], loose_units), read(echo[2], loose_units)
        return one if one and two and one.value == two.value else None
    if text[:1] + text[-1:] in ("()", "[]") and text.count(text[0]) == 1:
        text = text[1:-1].strip()
    text = re.sub(r"(?:negative|minus) (?=[\d$.])", "-", text, flags=re.IGNORECASE)
    for pattern, plainer in _PLAINER if re.search(r"[\\^,]", text) else ():
        text = pattern.sub(plainer, text, count=1)
    parts = [read(part, loose_units) for part in _TIME_PARTS.split(text)] if _TIME_PARTS.search(text) else []
    sizes = [units.SECONDS.get(part.unit, 0) if part and part.value >= 0 else 0 for part in parts]
    if parts and 0 not in sizes and sizes == sorted({*sizes}, reverse=True):
        values = (part.value * size for part, size in zip(parts, sizes, strict=True) if part)
        return Number(sum(values, Fraction()), units.TOGETHER)
    text = text.strip()
    found = _QUANTITY.match(text)
    if not found or (found[1] and found[3]) or (found["bottom"] and not _decimal(found["bottom"])):
        return None
    value = int(found["whole"] or 0) + _decimal(found["top"]) / _decimal(found["bottom"] or "1")
    value *= _SCALES.get((found["scale"] or "").lower(), 1) * (-1 if "-" in (found[1], found[3]) else 1)
    money, percent = units.canonical((found[2] or "").rstrip(".")) or "", bool(found["percent"])
    rest = text[found.end() :]
    glued = rest[:1].isascii() and not rest[:1].isspace() and rest[:1] not in units.CURRENCY
    rest = "*" if re.match(r"\s*\*\s", rest) else strip_wrapping(rest)  # a product, and no mark of Markdown
    if re.fullmatch(r"\([A-Za-z ]+\)", rest):
        rest = rest[1:-1]
    if not rest:
        return Number(value, money, percent)
    unit = None if rest[0] in ".,!?^*-+_(){}[]|&<>=:;\\'\"" else units.canonical(rest)
    if unit is None or not units.is_plausible(unit, rest, glued, loose_units or (percent and not glued)):
        return None
    if money and unit != money and not _PER_PART.match(rest) and (glued or len(rest) < 3):
        return None
    return Number(value, money or ("" if percent else unit), percent)


def same(gold: Number, found: Number) -> bool:
    """Returns whether a number is the gold.

    A percentage equals its bare number. It equals the fraction only if the gold has the percent sign.
    """
    ours, theirs = units.SECONDS.get(gold.unit), units.SECONDS.get(found.unit)
    if ours and theirs:
        return gold.value * ours == found.value * theirs
    if units.conflict(gold.unit, found.unit) or (gold.percent and found.unit) or (found.percent and gold.unit):
        return False
    return gold.value in (found.value, found.value * (100 if gold.percent and not found.percent else 1))


def solution(text: str, read_right: Callable[[str], Number | None]) -> Number | None:
    """Returns the right side of a solved and true equation such as ``x = 7``, ``n = 2 + 5 = 7``, ``so 2 + 5 = 7``."""
    first, *others = split(text, "=")
    left = _LEFT_SIDE.fullmatch(first)
    number = read_right(others[-1]) if left and others and others[-1] else None
    sides = [left["calculation"], *others[:-1]] if left and left["calculation"] else others[:-1]
    plain = (re.sub(rf"[{units.CURRENCY}°]", "", re.sub(r"(?<=\d)%", "/100", side)) for side in sides)
    return number if number and all(calculated(side) == number.value for side in plain) else None


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[, '_]", "", text))


def number_of(sentence: str, is_answer: bool = True) -> Number | None:
    """Returns the only number of a sentence without doubt and open calculation, or None if it is only mentioned.

    What is not known to be an answer (`is_answer`) needs other words.
    """
    text = re.sub(r"(?<=\s)May\b", "month", spelled(sentence))
    tokens = list(_TOKEN.finditer(text))
    before, after = (text[: tokens[0].start()], text[tokens[0].end() :]) if tokens else ("", "")
    names = _WORD.findall(before.lower())
    is_said = is_answer or len(_WORD.findall(text)) > 2 or _SAID.fullmatch(before)
    if not is_said or {*names[-1:]} & _PREPOSITIONS:
        return None
    if "=" in text:
        return solution(text, number_of)
    if names == ["see"] or re.search(r"[^A-Za-z'\s,.:=()*-]|[^\s:=(*]$|\b[b-z]\s+-\s*$", before):
        return None
    if len(tokens) != 1 or _doubted(names, _BEFORE) or {*names[-1:]} & (_LABELS | FUNCTIONS):
        return None
    if number := read(text[len(before) :]):
        return number
    names = _WORD.findall(units.KIND.sub("", re.sub(r"\beither [a-z ]+ or [a-z]+", " ", after.lower())))
    if re.search(r"[^A-Za-z'\s,.()*%-]|^[^\s%,.*)]", after) or _doubted(names) or names[:1] == ["and"]:
        return None
    if names == ["i"] or any(len(name) <= 2 and name not in _SHORT_WORDS for name in names):  # 12 x is a product
        return None
    return read(tokens[0][0])


def formula(text: str, strict: bool = False) -> str:
    """Returns the formula of a sentence such as "the length is $2x$ cm", or the text where that is not clear.

    With `strict`, only "the length is 2x" counts, and no formula between other words.
    """
    text = text if strict else re.split(r",?\s+(?:because|since|which)\b", text, maxsplit=1)[0]
    said = _STATED.fullmatch(text.replace("$", "") if text.count("$") == 2 else text)
    if said and "$" not in said[1] and not _doubted(_WORD.findall(text.lower())):
        return said[1]
    segments = re.findall(r"\$([^$]+)\$", text)
    outside = re.sub(r"\$[^$]+\$", " ", text)
    if strict or len(segments) != 1 or not re.search(r"[A-Za-z]{2,}", outside) or re.search(r"\d", outside):
        return text
    return text if _doubted(_WORD.findall(outside.lower())) else segments[0]


def _doubted(names: list[str], hedges: Set[str] = _AROUND) -> bool:
    return any(name in hedges or name.endswith("n't") for name in names)
