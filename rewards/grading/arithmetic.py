"""Calculations with rational numbers are evaluated exactly."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

_LONGEST = 320
"""Number of characters of the longest calculation."""
_MOST_BITS = 8192
"""Number of bits of the largest power."""
_CALCULATION = re.compile(r"[\d\s+\-*/^(){}.]*\d[\d\s+\-*/^(){}.]*")
_GROUPS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_DECIMAL = re.compile(r"(\d*)\.(\d+)|(\d+)\.")


def value(text: str) -> Fraction | None:
    """Returns the value of a calculation with + - * / ^ and brackets, or None for other texts and for large powers.

    >>> value("48/2 + 1,000"), value("2^{-3}"), value("2x"), value("9^{9^9}")
    (Fraction(1024, 1), Fraction(1, 8), None, None)
    """
    text = _GROUPS.sub(lambda m: m[0].replace(",", ""), text)
    if len(text) > _LONGEST or not _CALCULATION.fullmatch(text):
        return None
    text = text.replace("{", "(").replace("}", ")").replace("^", "**")
    text = _DECIMAL.sub(lambda m: f"({m[1]}{m[2]}/1{'0' * len(m[2])})" if m[2] else m[3], text)
    try:
        return _evaluated(ast.parse(re.sub(r"(?<!\d)0+(?=\d)", "", text).strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return None


def _evaluated(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign):
            return _evaluated(node.operand) * (-1 if isinstance(sign, ast.USub) else 1)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.Pow()):
            return _OPERATORS[type(node.op)](_evaluated(node.left), _evaluated(node.right))
    raise ValueError("no calculation")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or bits * abs(exponent) > _MOST_BITS:
        raise ValueError("no rational number, or a large one")
    return base ** int(exponent)


_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
              ast.Pow: _power}  # fmt: skip
