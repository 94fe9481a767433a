"""Which single expressions math-verify can be trusted with."""

from __future__ import annotations

import re
from collections.abc import Callable

from rewards.grading.structure import depth, split

LONGEST = 1000
DEEPEST = 30
COMMAND = re.compile(r"\\(?:begin|end)\s*\{\w+\}|\\[A-Za-z]+")
WORD = re.compile(r"[A-Za-z]{2,}")
FUNCTIONS = frozenset(
    "sin cos tan cot sec csc log ln exp arcsin arccos arctan sinh cosh tanh max min gcd lcm mod det".split()
)
_CONSTANTS = frozenset("sqrt frac binom pi cdot infty begin end pmatrix".split())
_BARE_FUNCTION = re.compile(r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|log|ln|exp)(?![A-Za-z])")
_SMALL_WORDS = frozenset("or of is as at in on no to an be by do go he if it me my so up us we am".split())
"""Two letters that are no product."""
_TOWER = re.compile(r"\^\s*[{(]?\s*(?:\d{4,}|[\d.]+\s*[\^!])")
_LARGE_FACTORIAL = re.compile(r"\d{4,}\s*!|!\s*!|\)\s*!\s*[)!]")
_MISREAD = re.compile(r"%|:|\?|≈|\.\.|\"|°|(?<!_)\d \d|\d{300}|\\text|mod|'")
"""What math-verify reads as something else."""
_RELATION = re.compile("[<>≤≥≠]")
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
"""Exact as a fraction; math-verify would round it."""
_IMAGINARY = re.compile(r"(\\[A-Za-z]+|_\{\w*\}|[A-Za-z]{2,})|i")
"""math-verify takes i for a variable."""
_LATEX = {"⦃": "\\{", "⦄": "\\}", "≥": "\\geq ", "≤": "\\leq ", "≠": "\\neq ", "∪": "\\cup ", "∞": "\\infty ",
          "±": "\\pm ", "∈": "\\in ", "*": "\\cdot "}  # fmt: skip


def decided(gold: str, answer: str, verify: Callable[[str, str], bool]) -> bool:
    """math-verify's word on two expressions; False for what it cannot be trusted with."""
    if not (_is_expression(gold) and _is_expression(answer)) or symbols(gold) != symbols(answer):
        return False
    if ("=" in gold) != ("=" in answer) or bool(_RELATION.search(gold)) != bool(_RELATION.search(answer)):
        return False
    if verify(_latex(gold), _latex(answer)):
        return True
    ours, theirs = gold.split("="), answer.split("=")
    if len(ours) != 2 or len(theirs) != 2:
        return False
    difference = f"{_latex(ours[0])}-({_latex(ours[1])})"
    return any(verify(difference, f"{_latex(a)}-({_latex(b)})") for a, b in (theirs, theirs[::-1]))


def symbols(text: str) -> set[str]:
    """Variables of an expression: letters and commands that are no function and no constant."""
    bare = _BARE_FUNCTION.sub(" ", re.sub(r"\\(?:begin|end)\{\w+\}", " ", text))
    names = {name.removeprefix("\\") for name in re.findall(r"\\[a-z]+|[A-Za-z]", bare)}
    return names - FUNCTIONS - _CONSTANTS - {"e", "i"}


def _is_expression(text: str) -> bool:
    if len(text) > LONGEST or (depth(text) or 0) > DEEPEST or len(split(text, ",")) > 1:
        return False
    if _TOWER.search(text) or _LARGE_FACTORIAL.search(text) or _MISREAD.search(text):
        return False
    words = {word.lower() for word in WORD.findall(COMMAND.sub(" ", text))} - FUNCTIONS
    return not any(
        len(word) > 3 or word in _SMALL_WORDS or (len(word) == 3 and re.search("[aeiou]", word)) for word in words
    )


def _latex(text: str) -> str:
    for sign, command in _LATEX.items():
        text = text.replace(sign, command)
    text = re.sub(r"_(\w)", r"_{\1}", _BARE_FUNCTION.sub(r"\\\1", text))
    text = _DECIMAL.sub(lambda m: f"{{(\\frac{{{m[1]}{m[2]}}}{{1{'0' * len(m[2])}}})}}", text)
    return text if "_{i}" in text else _IMAGINARY.sub(lambda m: m[1] or "\\sqrt{-1}", text)
