"""These functions decide which expressions sympy can read, and write them so that it reads them exactly."""

from __future__ import annotations

import re

from rewards.grading.brackets import depth, split

LONGEST = 1000
"""Number of characters of the longest expression."""
DEEPEST = 30
"""Sympy is not asked about deeper nesting of brackets."""
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
_IMAGINARY = re.compile(r"(\\[A-Za-z]+|_\{\w*\}|[A-Za-z]{2,})|i")
"""The letter i is written as a root of -1, because sympy's parser takes it for a variable."""
_LATEX = {"⦃": "\\{", "⦄": "\\}", "≥": "\\geq ", "≤": "\\leq ", "≠": "\\neq ", "∪": "\\cup ", "∞": "\\infty ",
          "±": "\\pm ", "*": "\\cdot "}  # fmt: skip


def is_readable(text: str) -> bool:
    """Returns whether sympy reads an expression as it is meant: it has no words, lists or towers of powers."""
    if len(text) > LONGEST or (depth(text) or 0) > DEEPEST or len(split(text, ",")) > 1:
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
    text = _DECIMAL.sub(lambda m: f"{{(\\frac{{{m[1]}{m[2]}}}{{1{'0' * len(m[2])}}})}}", text)
    return text if "_{i}" in text else _IMAGINARY.sub(lambda m: m[1] or "\\sqrt{-1}", text)
