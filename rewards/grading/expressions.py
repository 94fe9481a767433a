"""Expressions: their brackets, variables and exact values, and what sympy can read, which is written for sympy."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction
from itertools import accumulate

MAX_LENGTH = 1000
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
_MOST_BITS = 8192
"""Number of bits of the largest power and of the largest value."""
_CALCULATION = re.compile(r"[\d\s+\-*/^(){}.]*\d[\d\s+\-*/^(){}.]*")
_GROUPS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
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
    if len(text) > MAX_LENGTH or len(split(text, ",")) > 1 or _TOO_LARGE.search(text) or _MISREAD.search(text):
        return False
    words = {word.lower() for word in _WORD.findall(_COMMAND.sub(" ", text))} - FUNCTIONS
    return not any(word in SMALL_WORDS or re.fullmatch("[a-z]{4,}|(?=.*[aeiou])[a-z]{3}", word) for word in words)


def has_words(text: str) -> bool:
    """Returns whether two letters stand together outside of the commands of LaTeX."""
    return bool(_WORD.search(_COMMAND.sub(" ", text)))


def symbols(text: str) -> set[str]:
    """Returns the variables of an expression: letters and commands that are neither functions nor constants."""
    bare = _BARE_FUNCTION.sub(" ", re.sub(r"\\(?:begin|end)\{\w+\}", " ", text))
    names = {name.removeprefix("\\") for name in re.findall(r"\\[a-z]+|[A-Za-z]", bare)}
    return names - FUNCTIONS - _CONSTANTS


def latex(text: str) -> str:
    """Writes an expression as LaTeX that sympy's parser reads exactly."""
    for sign, command in _LATEX.items():
        text = text.replace(sign, command)
    text = re.sub(r"_(\w)", r"_{\1}", _BARE_FUNCTION.sub(r"\\\1", text))
    return _DECIMAL.sub(lambda m: f"{{(\\frac{{{m[1]}{m[2]}}}{{1{'0' * len(m[2])}}})}}", text)


def calculated(text: str) -> Fraction | None:
    """Returns the value of a calculation with + - * / ^ and brackets, or None for other texts and for large powers.

    >>> calculated("48/2 + 1,000"), calculated("2^{-3}"), calculated("2x"), calculated("9^{9^9}")
    (Fraction(1024, 1), Fraction(1, 8), None, None)
    """
    text = _GROUPS.sub(lambda m: m[0].replace(",", ""), text)
    if len(text) > MAX_LENGTH or not _CALCULATION.fullmatch(text):
        return None
    text = text.replace("{", "(").replace("}", ")").replace("^", "**")
    text = _DECIMAL.sub(lambda m: f"({m[1]}{m[2]}/1{'0' * len(m[2])})", text)
    try:
        number = _evaluated(ast.parse(re.sub(r"(?<!\d)0+(?=\d)|\.(?!\d)", "", text).strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None
    return number if _bits(number) <= _MOST_BITS else None


def _evaluated(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign):
            return _evaluated(node.operand) * (-1 if isinstance(sign, ast.USub) else 1)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow()):
            return _OPERATORS[type(node.op)](_evaluated(node.left), _evaluated(node.right))
    raise ValueError("no calculation")


def _bits(number: Fraction) -> int:
    return max(map(abs, number.as_integer_ratio())).bit_length()


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or _bits(base) * abs(exponent) > _MOST_BITS:
        raise ValueError("no rational number, or a large one")
    return base ** int(exponent)


_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
              ast.Pow: _power}  # fmt: skip
