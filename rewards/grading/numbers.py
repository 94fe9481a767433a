"""Numbers as people write them -> exact fractions, and how two of them compare."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rewards.grading import number_words, units
from rewards.grading.notation import plain, unwrapped

LARGEST_EXPONENT = 400
LONGEST = 320

_GROUPED = r"\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,3}(?: \d{3})+(?!\d)|\d{1,3}(?:'\d{3})+(?!\d)|\d{1,3}(?:_\d{3})+(?!\d)"
_PLAIN = rf"(?:(?:{_GROUPED}|\d+)(?:\.\d*)?|\.\d+)"
_FRAC = r"\\frac\s*\{\s*(?P<top>[-+]?[\d.,]+)\s*\}\s*\{\s*(?P<bottom>[-+]?[\d.,]+)\s*\}"
_BODY = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<currency>(?:us|a|c)?[{units.CURRENCY}]|(?:rs\.?|usd|eur|gbp|inr)(?=[\s\d]))?\s*(?P<sign2>[-+]?)\s*(?:"
    rf"(?:(?P<whole>\d+)\s*(?:and\s+)?)?(?P<frac>{_FRAC})"
    r"|(?P<mixed>\d+)\s+(?:and\s+)?(?P<over>\d+)\s*/\s*(?P<under>\d+)(?![\d.,])"
    r"|(?P<half>\d+) and (?:a|one) half\b"
    r"|(?P<ten>10)\s*\^\s*(?:\{\s*(?P<p1>[-+]?\d{1,5})\s*\}|(?P<p2>[-+]?\d{1,5}))"
    r"|(?P<european>\d{1,3}(?:\.\d{3})+,\d{1,2})(?!\d)"
    rf"|(?P<number>{_PLAIN})(?:\s*/\s*(?P<divisor>{_PLAIN})|[eE](?P<e>[-+]?\d{{1,5}})(?![\d.])"
    r"|\s*(?:\*|[xX]\s+|[xX](?=10))\s*10\s*\^\s*(?:\{\s*(?P<p3>[-+]?\d{1,5})\s*\}|(?P<p4>[-+]?\d{1,5})))?"
    r"(?:\s*(?P<scale>hundred|thousand|million|billion|trillion)\b)?)",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"\s*(?:%|percent\b|per cent\b|percentage points?\b)", re.IGNORECASE)
_SHARE = re.compile(r"/|(?:per|each|a|in|every|total)\b", re.IGNORECASE)
_RARE = {"n", "j", "w", "v"}
"""Units whose letter is more often a variable."""
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?\s*(\d{1,30})\s*\}?")
_ARITHMETIC = re.compile(r"[\d\s+\-*/().,$%^{}]*\d\s*[+\-*/^][\d\s+\-*/().,$%^{}]*")
_VARIABLE = re.compile(
    r"(?:(?:\\?(?:sin|cos|tan)\s*)?(?:m?(?:∠|\\angle|角)\s*)?[A-Za-z]{1,3}(?:_\{?\w+\}?)?|[A-Za-z]\([a-z]\)"
    r"|\\?[A-Za-z]{2,}(?: [A-Za-z]{2,}){0,5})"
)
_MINUS = re.compile(r"(?:negative|minus)\s+(?=[\d$.])", re.IGNORECASE)
_DENIED = re.compile(r"(?<=\S)\s*[,;(]\s*(?:and )?not \$?[\d.,]*\d\)?\.?$")
"""A number that is named to say that it is not the answer."""
_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")


@dataclass(frozen=True)
class Number:
    """An exact number with what stood beside it."""

    value: Fraction
    unit: str = ""
    """Canonical unit or currency; empty where none was written."""
    percent: bool = False


def spelled(text: str) -> str:
    """The text without LaTeX, wrappers and GSM8K's calculator notes."""
    return unwrapped(plain(unwrapped(_CALCULATOR.sub("", text))))


def parse(text: str, *, words: bool = True, loose_units: bool = True) -> Number | None:
    """The number that a text is, or None if it is more or less than one number.

    Args:
        text: An extracted answer.
        words: Number words count.
        loose_units: Any noun may be a unit, not only the known ones.

    >>> parse("$1,080.50"), parse("3 1/2 cups").value, parse("12 or 13")
    (Number(value=Fraction(2161, 2), unit='$', percent=False), Fraction(7, 2), None)
    """
    if len(text) > LONGEST or "~~" in text:  # struck out
        return None
    text = _DENIED.sub("", _without_echo(spelled(text)))
    if text[:1] + text[-1:] in ("()", "[]") and text.count(text[0]) == 1:
        text = text[1:-1].strip()
    if "=" in text:
        text = _right_side(text)
    text = _MINUS.sub("-", text)
    repeating = _REPEATING.fullmatch(text) if "\\" in text else None
    if repeating:
        return Number(_repeating(repeating))
    found = _BODY.match(text)
    if not found:
        return _in_words(text) if words else None
    try:
        value = _value(found)
    except (ValueError, ZeroDivisionError):
        return None
    return None if value is None else _with_unit(value, found["currency"] or "", text[found.end() :], loose_units)


def same(gold: Number, found: Number) -> bool:
    """Whether a number is the gold.

    A percentage is its bare number; it is the fraction only if the gold has the sign.
    """
    if units.conflict(gold.unit, found.unit) or (gold.percent and found.unit) or (found.percent and gold.unit):
        return False
    if gold.value == found.value:
        return True
    return gold.percent and not found.percent and not found.unit and found.value * 100 == gold.value


def _without_echo(text: str) -> str:
    """``12 (twelve)`` -> ``12``."""
    found = re.fullmatch(r"([^()]+) \(([a-z -]+|\$?[\d.,]+)\)", text, re.IGNORECASE)
    if found is None:
        return text
    one, two = parse(found[1]), parse(found[2])
    return found[1] if one and two and one.value == two.value else text


def _right_side(text: str) -> str:
    left, _, right = text.rpartition("=")
    left = left.strip().rstrip("=").strip()
    if _VARIABLE.fullmatch(left) or _ARITHMETIC.fullmatch(left.replace("\\div", "/")) or not left:
        return unwrapped(right)
    first = left.partition("=")[0].strip()
    if "=" in left and _VARIABLE.fullmatch(first) and _ARITHMETIC.fullmatch(left.rpartition("=")[2]):
        return unwrapped(right)
    return ""


def _decimal(text: str) -> Fraction:
    return Fraction(re.sub(r"[, '_]", "", text))


def _value(found: re.Match[str]) -> Fraction | None:
    if found["sign"] and found["sign2"]:
        return None
    if found["frac"]:
        value = int(found["whole"] or 0) + _decimal(found["top"]) / _decimal(found["bottom"])
    elif found["mixed"]:
        value = int(found["mixed"]) + Fraction(int(found["over"]), int(found["under"]))
    elif found["half"]:
        value = int(found["half"]) + Fraction(1, 2)
    elif found["ten"]:
        value = _power(found["p1"] or found["p2"])
    elif found["european"]:
        value = Fraction(found["european"].replace(".", "").replace(",", "."))
    else:
        value = _decimal(found["number"])
        if found["divisor"]:
            value /= _decimal(found["divisor"])
        exponent = found["e"] or found["p3"] or found["p4"]
        if exponent:
            value *= _power(exponent)
        if found["scale"]:
            value *= number_words.SCALES[found["scale"].lower()]
    return -value if "-" in (found["sign"], found["sign2"]) else value


def _power(exponent: str) -> Fraction:
    if abs(int(exponent)) > LARGEST_EXPONENT:
        raise ValueError("exponent too large")
    return Fraction(10) ** int(exponent)


def _repeating(found: re.Match[str]) -> Fraction:
    sign, whole, fixed, again = found.groups()
    scale = 10 ** len(fixed)
    value = int(whole or 0) + Fraction(int(fixed or 0), scale) + Fraction(int(again), (10 ** len(again) - 1) * scale)
    return -value if sign == "-" else value


def _with_unit(value: Fraction, currency: str, rest: str, loose: bool) -> Number | None:
    money = units.canonical(currency.rstrip(".")) or ""
    percent = _PERCENT.match(rest)
    if percent:
        rest = rest[percent.end() :]
    glued = bool(rest) and not rest[0].isspace() and rest[0] not in "°" + units.CURRENCY and ord(rest[0]) < 128
    rest = rest.strip()
    rest = unwrapped(rest) if rest else ""
    if re.fullmatch(r"\([A-Za-z ]+\)", rest):
        rest = rest[1:-1]
    if not rest:
        return Number(value, money, bool(percent))
    if rest[0] in ".,!?/^*-+_(){}[]|&<>=:;\\'\"" and not rest.startswith("/"):
        return None
    unit = units.canonical(rest)
    names = re.split(r"[ /]", unit) if unit else []
    if unit is None or (glued and not all(name in _KNOWN_NAMES for name in names if name)):
        return None
    if glued and re.match(r"[A-Za-z](?![A-Za-z])", rest) and (not loose or unit in _RARE or rest[0] == "M"):
        return None  # 5m is a product in mathematics, 5M may be five million
    if not loose and not percent and not all(name in _KNOWN_NAMES or _is_noun(name, rest) for name in names if name):
        return None
    if money and unit != money and not _SHARE.match(rest) and (glued or len(rest) < 3):
        return None
    return Number(value, money or ("" if percent else unit), bool(percent))


_KNOWN_NAMES = {name + power for name in units.KNOWN.values() for power in ("", "^2", "^3")}


def _is_noun(word: str, text: str) -> bool:
    long = len(word) >= 4 or (len(word) == 3 and word + "s" in text.lower())
    return long and word.isalpha() and any(vowel in word for vowel in "aeiou") and word not in _FUNCTIONS


_FUNCTIONS = frozenset("sinh cosh tanh arcsin arccos arctan sqrt frac theta alpha beta gamma base".split())


def _in_words(text: str) -> Number | None:
    found = number_words.read(text)
    return _with_unit(found[0], "", " " + found[1] if found[1] else "", True) if found else None
