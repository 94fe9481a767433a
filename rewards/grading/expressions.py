"""These functions find brackets and variables in expressions, decide what sympy can read, and write it for sympy."""

from __future__ import annotations

import re
from itertools import accumulate

LONGEST = 1000
"""Number of characters of the longest expression."""
DEEPEST = 30
"""The grader reads no deeper nesting of brackets, because the parsers recurse."""
_OPEN, _CLOSE = "([{⦃", ")]}⦄"
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc log ln exp arcsin arccos arctan sinh cosh tanh max min gcd lcm mod det".split()
)
_CONSTANTS = frozenset("e i sqrt frac binom pi cdot infty begin end pmatrix".split())
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{\w+\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_BARE_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|log|ln|exp)(?![A-Za-z])")
_ANGLE_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|[a-z]|\\[a-z]+)\s*°")
SMALL_WORDS = frozenset("or of is as at in on no to an be by do go he if it me my so up us we am".split())
"""These pairs of letters are words, and not products of two variables."""
_TOO_LARGE = re.compile(
    r"""\^\s*[{(]?\s*(?: \d{4,} | [\d.]+\s*[\^!] )  # 9^{9^9}
      | \d{4,}\s*! | !\s*! | \)\s*!\s*[)!]
      | \d{300}""",
    re.VERBOSE,
)
_MISREAD = re.compile(r"%|:|\?|≈|…|\"|(?<!_)\d \d|\\text|mod|'|°")
"""Sympy's parser reads these signs as something else."""
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
"""Decimals are written as fractions, because sympy's parser would round them."""
_LATEX = {"⦃": "\\{", "⦄": "\\}", "≥": "\\geq ", "≤": "\\leq ", "≠": "\\neq ", "∪": "\\cup ", "∞": "\\infty ",
          "±": "\\pm ", "*": "\\cdot "}  # fmt: skip


def _levels(text: str) -> list[int]:
    """Returns how many brackets are open behind each sign."""
    return list(accumulate((sign in _OPEN) - (sign in _CLOSE) for sign in text))


def depth(text: str) -> int | None:
    """Returns the deepest nesting of brackets, or None if they do not close or are deeper than ``DEEPEST``."""
    levels = [0, *_levels(text)]
    num_braces = sum((sign in "{⦃") - (sign in "}⦄") for sign in text)
    return max(levels) if levels[-1] == num_braces == 0 and max(levels) <= DEEPEST else None


def is_bracketed(text: str) -> bool:
    """Returns whether the first sign is a bracket that the last sign closes."""
    levels = _levels(text) if text.startswith(tuple(_OPEN)) else []
    return levels[-1:] == [0] and 0 not in levels[:-1] and text[-1] in _CLOSE


def outside(text: str, pattern: str) -> list[re.Match[str]]:
    """Returns the matches of a pattern that stand outside of all brackets."""
    matches = list(re.finditer(pattern, text))
    levels = [0, *_levels(text)] if matches else []
    return [found for found in matches if not levels[found.start()]]


def split(text: str, pattern: str) -> list[str]:
    """Returns the parts between separators that stand outside of all brackets.

    >>> split("(1, 2), 3", ",")
    ['(1, 2)', '3']
    """
    places = [0, *(place for found in outside(text, pattern) for place in found.span()), len(text)]
    return [text[start:end].strip() for start, end in zip(places[::2], places[1::2], strict=True)]


def unbracketed(text: str) -> str:
    """Removes parentheses and braces around the whole text, unless the parentheses hold a list."""
    text = text.strip()
    while text[:1] + text[-1:] in ("()", "{}") and text[1:-1].strip() and is_bracketed(text):
        inner = text[1:-1].strip()
        if text[0] == "(" and len(split(inner, ",")) > 1:
            break
        text = inner
    return text


def is_readable(text: str) -> bool:
    """Returns whether sympy reads an expression as it is meant: it has no words, lists or towers of powers."""
    if len(text) > LONGEST or len(split(text, ",")) > 1:
        return False
    if _TOO_LARGE.search(text) or _MISREAD.search(text):
        return False
    words = {word.lower() for word in _WORD.findall(_COMMAND.sub(" ", text))} - FUNCTIONS
    return not any(
        len(word) > 3 or word in SMALL_WORDS or (len(word) == 3 and re.search("[aeiou]", word)) for word in words
    )


def has_words(text: str) -> bool:
    """Returns whether two letters stand together outside of the commands of LaTeX."""
    return bool(_WORD.search(_COMMAND.sub(" ", text)))


def symbols(text: str) -> set[str]:
    """Returns the variables of an expression: letters and commands that are neither functions nor constants."""
    bare = _BARE_FUNCTION.sub(" ", re.sub(r"\\(?:begin|end)\{\w+\}", " ", text))
    names = {name.removeprefix("\\") for name in re.findall(r"\\[a-z]+|[A-Za-z]", bare)}
    return names - FUNCTIONS - _CONSTANTS


def in_radians(text: str) -> str:
    """Writes the degrees in sines and other functions of angles as radians."""
    return _DEGREES.sub(r"(\1*\\pi/180)", text) if "°" in text and _ANGLE_FUNCTION.search(text) else text


def latex(text: str) -> str:
    """Writes an expression as LaTeX that sympy's parser reads exactly."""
    for sign, command in _LATEX.items():
        text = text.replace(sign, command)
    text = re.sub(r"_(\w)", r"_{\1}", _BARE_FUNCTION.sub(r"\\\1", text))
    return _DECIMAL.sub(lambda m: f"{{(\\frac{{{m[1]}{m[2]}}}{{1{'0' * len(m[2])}}})}}", text)
