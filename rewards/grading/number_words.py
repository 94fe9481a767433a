"""Numbers in English words become digits."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ONES = "zero one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_PARTS = "half third quarter fourth fifth sixth seventh eighth ninth tenth".split()
_VALUES = {word: value for value, word in enumerate(_ONES + _TEENS)}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, 2)} | {"a": 1, "an": 1}
_SIZES = dict(zip(_PARTS, (2, 3, 4, 4, 5, 6, 7, 8, 9, 10), strict=True)) | {"halve": 2}


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"


_SMALL = rf"(?:{_any(_TENS)}(?:[ -]{_any(_ONES[1:])})?|{_any(_ONES + _TEENS)})"
_BELOW_THOUSAND = rf"(?:(?:a|{_SMALL}) hundred(?:(?: and)? {_SMALL})?|{_SMALL})"
_SCALED = rf"(?:a|{_BELOW_THOUSAND}) (?:thousand|million|billion|trillion)(?:,?(?: and)? {_BELOW_THOUSAND})*"
_WHOLE = rf"(?:{_SCALED}|{_BELOW_THOUSAND})"
_PART = rf"(?:an?|{_any(_ONES[1:])})[ -](?:{'|'.join(_SIZES)})s?"
_NUMBER = re.compile(
    rf"(?<![\w-])(negative |minus )?(?:({_PART})|({_WHOLE})(?: and ({_PART}))?)(?![\w-])",
    re.IGNORECASE,
)


def to_digits(text: str) -> str:
    """Returns the text with digits for numbers in words.

    >>> to_digits("two hundred and six cups"), to_digits("three and a half"), to_digits("third")
    ('206 cups', '7/2', 'third')
    """
    return _NUMBER.sub(_digits, text)


def _digits(found: re.Match[str]) -> str:
    sign, part, whole, behind = (group.lower() if group else "" for group in found.groups())
    value = _part(part or behind) + _whole(whole)
    return ("-" if sign else "") + str(value)


def _part(text: str) -> Fraction:
    top, _, below = text.replace("-", " ").partition(" ")
    return Fraction(_VALUES[top], _SIZES[below.removesuffix("s")]) if text else Fraction(0)


def _whole(text: str) -> int:
    total = current = 0
    for word in re.findall("[a-z]+", text):
        if word == "hundred":
            current *= 100
        elif word in SCALES:
            total, current = total + current * SCALES[word], 0
        elif word != "and":
            current += _VALUES[word]
    return total + current
