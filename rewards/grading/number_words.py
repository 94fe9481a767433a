"""Numbers in English words become digits."""

from __future__ import annotations

import re
from fractions import Fraction

SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
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
_NUMBER = re.compile(
    rf"(?<![\w-])(negative |minus )?(?:({_PART})|({_SCALED}|{_BELOW_THOUSAND})(?: and ({_PART}))?)(?![\w-])",
    re.IGNORECASE,
)


def to_digits(text: str) -> str:
    """Returns the text with digits for numbers in words, such as 7/2 for "three and a half"."""
    return _NUMBER.sub(_digits, text)


def _digits(found: re.Match[str]) -> str:
    sign, part, whole, behind = (group.lower() if group else "" for group in found.groups())
    top, _, below = (part or behind).replace("-", " ").partition(" ")
    total = Fraction(_VALUES[top], _SIZES[below.removesuffix("s")]) if top else Fraction(0)
    current = 0
    for word in re.findall("[a-z]+", whole):
        if word == "hundred":
            current *= 100
        elif word in SCALES:
            total, current = total + current * SCALES[word], 0
        elif word != "and":
            current += _VALUES[word]
    return ("-" if sign else "") + str(total + current)
