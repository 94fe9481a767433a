"""Sympy decides whether two LaTeX expressions or relations are equal.

Numbers are compared by a difference that sympy evaluates until it is known to be nonzero, or zero to 300 digits, so no
tolerance is absolute. Functions are compared at fixed points of the gold's real domain: a variable counts as positive
only where the gold has its root or its logarithm. Odd roots of negative numbers are real.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from sympy.core.evalf import PrecisionExhausted
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

_DIGITS = 300
"""Two numbers that agree to this number of digits are equal."""
_NUM_POINTS, _MIN_POINTS, _NUM_TRIALS = 6, 3, 24
"""Two functions must agree at the first number of points, or at least at the second of the third number of trials."""
_RANGES = ((1, 30), (-30, -1), (-30, 30))
"""The numerators of one point lie in one of these ranges."""
_I = sympy.Symbol("i")
"""The parser takes the letter of the imaginary unit for a variable."""
_CONVERSION = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)


def equal(gold: str, answer: str) -> bool:
    """Returns whether two LaTeX expressions or relations of one sign are equal; what cannot be parsed is not."""
    ours, theirs = _parsed(gold), _parsed(answer)
    if isinstance(ours, Relational) and isinstance(theirs, Relational):
        return _is_same_relation(ours, theirs)
    return isinstance(ours, sympy.Expr) and isinstance(theirs, sympy.Expr) and _is_same_function(ours, theirs)


@lru_cache(maxsize=1024)  # the samples of one prompt share their gold
def _parsed(text: str) -> Any:
    try:
        tree: Any = latex2sympy(text, conversion_config=_CONVERSION)
        return tree.subs(_I, sympy.I) if _I in tree.free_symbols else tree
    except Exception:  # the parser raises bare exceptions on what it cannot read
        return None


def _is_same_function(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    ours, theirs = _evaluated(gold), _evaluated(answer)
    difference, agreed = ours - theirs, 0
    for point in _points(ours.free_symbols, [] if ours.has(sympy.I) else list(_roots(gold))):
        zero = _is_zero(difference.subs(point))
        if zero is False:
            return False
        agreed += zero is True
        if agreed == _NUM_POINTS or (zero and not point):
            return True
    return agreed >= _MIN_POINTS or (agreed == 0 and (ours == theirs or sympy.simplify(difference) == 0))


def _is_same_relation(gold: Relational, answer: Relational) -> bool:
    """Returns whether two equations or inequalities differ by a factor, which must be positive for inequalities."""
    (sign, ours), (other, theirs) = _oriented(gold), _oriented(answer)
    values = [(ours.subs(point), theirs.subs(point)) for point in _points(ours.free_symbols | theirs.free_symbols, [])]
    values = [pair for pair in values if _is_zero(pair[0]) is False and _is_zero(pair[1]) is False][:_NUM_POINTS]
    if sign != other or len(values) < _MIN_POINTS:
        return False
    (first, second), *others = values
    has_factor = all(_is_zero(first * right - second * left) for left, right in others)
    return has_factor and (">" not in sign or bool((first * second).evalf() > 0))


def _oriented(relation: Any) -> tuple[str, Any]:
    """Returns the sign of a relation with its larger side first, and the difference of its sides."""
    sign = relation.rel_op.replace("<", ">")
    larger, smaller = (relation.gts, relation.lts) if ">" in sign else relation.args
    difference = _evaluated(larger) - _evaluated(smaller)
    return sign, sympy.fraction(sympy.together(difference))[0] if sign == "==" else difference


def _evaluated(tree: Any) -> Any:
    """Evaluates sums, powers and functions, with real odd roots, and with variables for unknown functions."""
    if isinstance(tree, AppliedUndef):
        return sympy.Symbol(str(tree))
    if not tree.args:
        return tree
    if isinstance(tree, (sympy.Sum, sympy.Product, sympy.Integral, sympy.Derivative, sympy.Limit)):
        return tree.doit()
    args = [_evaluated(part) for part in tree.args]
    if isinstance(tree, sympy.Pow) and _is_odd_root(args[1]) and args[0].is_real is not False:
        return sympy.sign(args[0]) ** args[1].p * sympy.Abs(args[0]) ** args[1]
    return tree.func(*args)


def _is_odd_root(exponent: Any) -> bool:
    return exponent.is_Rational and exponent.q % 2 == 1 and exponent.q > 1


def _points(variables: set[Any], roots: list[tuple[Any, Any]]) -> Iterator[dict[Any, Any]]:
    """Yields points with rational coordinates at which powers, given by base and exponent, are real."""
    symbols = sorted(variables, key=str)
    for trial in range(_NUM_TRIALS if symbols else 1):
        low, high = _RANGES[trial % len(_RANGES)]
        drawn, bottom = random.Random(trial), 1 if trial < len(_RANGES) else 7  # first whole numbers, then fractions
        point = {symbol: sympy.Rational(drawn.randint(low, high), drawn.randint(1, bottom)) for symbol in symbols}
        if all(base.subs(point).is_nonnegative or exponent.subs(point).is_integer for base, exponent in roots):
            yield point


def _roots(tree: sympy.Expr) -> Iterator[tuple[Any, Any]]:
    """Yields base and exponent of the roots and logarithms that are not real for a negative base."""
    for part in sympy.preorder_traversal(tree):
        if isinstance(part, sympy.log):
            yield _evaluated(part.args[0]), sympy.S.Half
        elif isinstance(part, sympy.Pow) and not part.exp.is_integer and not _is_odd_root(part.exp):
            yield _evaluated(part.base), _evaluated(part.exp)


def _is_zero(number: sympy.Expr) -> bool | None:
    """Returns whether a number is zero, or None if it is no finite number."""
    try:
        value = number.evalf(10, maxn=_DIGITS, strict=True)
    except PrecisionExhausted:
        return True
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return None
    return bool(value == 0) if value.is_number and value.is_finite else None
