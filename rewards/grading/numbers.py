"""Numbers as people write them become exact fractions with units, which are compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from rewards.grading import arithmetic, units
from rewards.grading.brackets import split
from rewards.grading.latex import canonical, strip_wrapping
from rewards.grading.number_words import SCALES, to_digits

LONGEST = 320
"""Number of characters of the longest text that can be a number."""
_LARGEST_EXPONENT = 400

_GROUPED = "|".join(rf"\d{{1,3}}(?:{sign}\d{{3}})+(?!{sign}?\d)" for sign in (",", "[ ]", "'", "_"))
_DIGITS = rf"(?:(?:{_GROUPED}|\d+)(?:\.\d*)?|\.\d+)"
_POWER = r"10\s*\^\s*\{?\s*([-+]?\d{1,5})\s*\}?"
_SIGN = re.compile(
    rf"""([-+]?) \s* ( (?:us|a|c)?[{units.CURRENCY}] | (?:rs\.?|usd|eur|gbp|inr)(?=[\s\d]) )? \s* ([-+]?) \s*""",
    re.IGNORECASE | re.VERBOSE,
)
_SCALE = re.compile(rf"\s*({'|'.join(SCALES)})\b", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:%|percent\b|per cent\b|percentage points?\b)", re.IGNORECASE)
_SHARE = re.compile(r"/|(?:per|each|a|in|every|total)\b", re.IGNORECASE)
NAME = re.compile(
    r"""(?:\\?(?:sin|cos|tan)\s*(?=[A-Z∠]))? (?:m?(?:∠|角|△)\s*)?
    (?: [A-Za-z] | (?<=∠)\d | [A-Z]{2,4} | \\[a-z]+
      | (?:[A-Za-z]{2,}[ ]){1,5} [A-Za-z]{2,} | sum | ans | [A-Z][a-z]{2} | [A-Za-z][a-z]{3,} )
    (?:_\w+ | _\{\w+\})? (?:\^\{-1\})? (?:\([a-z](?:,\s*[a-z])*\))? :?""",
    re.VERBOSE,
)
"""This matches the name of a value. Letters such as xy are a product, so their equation is not solved."""
_EQUALS = re.compile("=")
_DENIED = re.compile(r"(?<=\S)\s*[,;(]\s*(?:and )?not \$?[\d.,]*\d\)?\.?$")
"""This matches a number that the text rules out."""
_ECHO = re.compile(r"([^()]+) \((\$?[\d.,]+)\)")
"""This matches a number that is repeated in parentheses."""
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")
"""GSM8K writes calculations between these marks."""


@dataclass(frozen=True)
class Number:
    """An exact number with its unit and percent sign."""

    value: Fraction
    unit: str = ""
    """The canonical unit or currency, or an empty text where none was written."""
    percent: bool = False


def spelled(text: str) -> str:
    """Returns the text in canonical spelling, with digits for words, and without the calculations of GSM8K."""
    return to_digits(canonical(_CALCULATOR.sub("", text)))


def parse(text: str) -> Number | None:
    """Returns the number that a text is, or None if it is more or less than one number.

    >>> parse("$1,080.50"), parse("3 1/2 cups").value, parse("12 or 13"), parse("5 - 3 = 9")
    (Number(value=Fraction(2161, 2), unit='$', percent=False), Fraction(7, 2), None, None)
    """
    if len(text) > LONGEST or "~~" in text:  # struck out
        return None
    return read(_DENIED.sub("", spelled(text)))


def read(text: str, loose_units: bool = True) -> Number | None:
    """Returns the number that a text in canonical spelling is, or None.

    Args:
        text: An answer.
        loose_units: Any noun may be a unit, not only the known ones.
    """
    text = to_digits(text)
    echo = _ECHO.fullmatch(text)
    if echo:
        one, two = read(echo[1], loose_units), read(echo[2], loose_units)
        return one if one and two and one.value == two.value else None
    if text[:1] + text[-1:] in ("()", "[]") and text.count(text[0]) == 1:
        text = text[1:-1].strip()
    if "=" in text:
        return _solution(text)
    text = re.sub(r"(?:negative|minus) (?=[\d$.])", "-", text, flags=re.IGNORECASE)
    signs = _SIGN.match(text)
    assert signs is not None  # every part of it may be empty
    numeral = None if signs[1] and signs[3] else _numeral(text[signs.end() :])
    if numeral is None:
        return None
    value, rest = numeral
    return _with_unit(-value if "-" in signs.groups() else value, signs[2] or "", rest, loose_units)


def same(gold: Number, found: Number) -> bool:
    """Returns whether a number is the gold.

    A percentage equals its bare number. It equals the fraction only if the gold has the percent sign.
    """
    if units.conflict(gold.unit, found.unit) or (gold.percent and found.unit) or (found.percent and gold.unit):
        return False
    if gold.value == found.value:
        return True
    return gold.percent and not found.percent and not found.unit and found.value * 100 == gold.value


def calculated(text: str) -> Fraction | None:
    """Returns the value of a calculation whose numbers may have currencies, degrees or the percent sign."""
    return arithmetic.value(re.sub(rf"[{units.CURRENCY}°]", "", re.sub(r"(?<=\d)%", "/100", text)))


def _solution(text: str) -> Number | None:
    """Returns the right side of a solved and true equation such as ``x = 7`` or ``n = 2 + 5 = 7``."""
    left, *others = split(text, _EQUALS)
    number = parse(others[-1]) if others and others[-1] else None
    sides = others[:-1] if NAME.fullmatch(left) else [left, *others[:-1]]
    return number if number and all(calculated(side) == number.value for side in sides) else None


def _numeral(text: str) -> tuple[Fraction, str] | None:
    """Returns the value of the numeral that a text begins with, and the text behind it."""
    for pattern, value in _NUMERALS:
        found = pattern.match(text)
        if not found:
            continue
        try:
            number = value(*found.groups())
        except (ValueError, ZeroDivisionError):
            return None
        scale = _SCALE.match(text, found.end())
        return (number * SCALES[scale[1].lower()], text[scale.end() :]) if scale else (number, text[found.end() :])
    return None


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[, '_]", "", text))


def _power(exponent: str) -> Fraction:
    if abs(int(exponent)) > _LARGEST_EXPONENT:
        raise ValueError("exponent too large")
    return Fraction(10) ** int(exponent)


_NUMERALS: tuple[tuple[re.Pattern[str], Callable[..., Fraction]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.VERBOSE), value)
    for pattern, value in (
        # 3\frac{1}{2}
        (r"(\d*) \s* (?:and\s+)? \\frac \s* \{\s*([-+]?[\d.,]+)\s*\} \s* \{\s*([-+]?[\d.,]+)\s*\}",
         lambda whole, top, bottom: int(whole or 0) + _decimal(top) / _decimal(bottom)),
        # 3 1/2, 3 and a half
        (r"(\d+) \s+ (?:and\s+)? (\d+) \s*/\s* (\d+) (?![\d.,])",
         lambda whole, top, bottom: int(whole) + Fraction(int(top), int(bottom))),
        # 2.450,00
        (r"(\d{1,3}(?:\.\d{3})+,\d{1,2}) (?!\d)",
         lambda number: Fraction(number.replace(".", "").replace(",", "."))),
        # 0.1\overline{6}
        (r"(\d*\.(\d*)) \\(?:overline|bar|dot) \s* \{?\s* (\d{1,30}) \s*\}?",
         lambda start, fixed, again:
         _decimal(f"0{start}0") + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(fixed))),
        (_POWER, _power),
        # 1,080.5, 7/2, 1.5e3, 1.5*10^3
        (rf"({_DIGITS}) (?: \s*/\s* ({_DIGITS}) | [eE]([-+]?\d{{1,5}})(?![\d.])"
         rf" | \s*(?:\*|[xX]\s+|[xX](?=10))\s*{_POWER} )?",
         lambda number, divisor, e, power: _decimal(number) / _decimal(divisor or "1") * _power(e or power or "0")),
    )
)  # fmt: skip
_PERMITTED = {
    # (the unit is glued to the number, any noun may be a unit): kinds of units
    (False, True): {"letter", "rare letter", "known", "noun", "word"},
    (False, False): {"letter", "rare letter", "known", "noun"},
    (True, True): {"letter", "known"},  # 5m is a length in a sentence
    (True, False): {"known"},  # 5m is a product in a formula
}


def _with_unit(value: Fraction, currency: str, rest: str, loose: bool) -> Number | None:
    money = units.canonical(currency.rstrip(".")) or ""
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    glued = bool(rest) and rest[0].isascii() and not rest[0].isspace() and rest[0] not in units.CURRENCY
    rest = strip_wrapping(rest)
    if re.fullmatch(r"\([A-Za-z ]+\)", rest):
        rest = rest[1:-1]
    if not rest:
        return Number(value, money, bool(percent))
    unit = None if rest[0] in ".,!?^*-+_(){}[]|&<>=:;\\'\"" else units.canonical(rest)
    if unit is None or not units.kinds(unit, rest) <= _PERMITTED[glued, loose or (bool(percent) and not glued)]:
        return None
    if money and unit != money and not _SHARE.match(rest) and (glued or len(rest) < 3):
        return None
    return Number(value, money or ("" if percent else unit), bool(percent))
