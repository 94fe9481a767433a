"""Whether two LaTeX expressions or relations are equal, by sympy: exact numbers, and functions at many points.

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
from sympy.core.relational import Equality, Relational, Unequality

DIGITS = 300
"""Two numbers that agree to so many digits are equal."""
NUM_POINTS = 6
"""Points of the gold's domain at which two functions must agree."""
MIN_POINTS = 3
"""With fewer points in its domain, a function is compared by simplification."""
NUM_TRIALS = 24
"""Points that are tried."""

_RANGES = ((1, 30), (-30, -1), (-30, 30))
"""The numerators of one point lie in one of these."""
_CONVERSION = ConversionConfig(interpret_as_mixed_fractions=False, lowercase_symbols=False)
_Point = dict[Any, Any]


def equal(gold: str, answer: str) -> bool:
    """Whether an answer equals the gold; False where either cannot be parsed.

    Args:
        gold: A LaTeX expression, or a relation with one sign.
        answer: The same.
    """
    ours, theirs = _parsed(gold), _parsed(answer)
    if isinstance(ours, Relational) and isinstance(theirs, Relational):
        return _same_relation(ours, theirs)
    if isinstance(ours, sympy.Expr) and isinstance(theirs, sympy.Expr):
        return _same_function(ours, theirs)
    return False


@lru_cache(maxsize=1024)  # the samples of one prompt share their gold
def _parsed(text: str) -> sympy.Basic | None:
    try:
        tree = latex2sympy(text, conversion_config=_CONVERSION)
    except Exception:  # the parser raises bare exceptions on what it cannot read
        return None
    return tree if isinstance(tree, sympy.Basic) else None


def _same_function(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    ours, theirs = _evaluated(gold), _evaluated(answer)
    if ours == theirs:
        return True
    agreed = 0
    for point in _points(gold):
        zero = _is_zero((ours - theirs).subs(point))
        if zero is None:
            continue
        if not zero:
            return False
        agreed += 1
        if agreed == NUM_POINTS or not point:
            return True
    return agreed >= MIN_POINTS or (agreed == 0 and sympy.simplify(ours - theirs) == 0)


def _same_relation(gold: Relational, answer: Relational) -> bool:
    """Whether two equations or inequalities differ by a constant factor."""
    ours, theirs = _oriented(gold), _oriented(answer)
    if gold.func in (Equality, Unequality):
        if gold.func is not answer.func:
            return False
    elif _is_strict(gold) != _is_strict(answer) or answer.func in (Equality, Unequality):
        return False
    values = []
    for point in _points(ours + theirs, real=False):
        first, second = ours.subs(point), theirs.subs(point)
        if _is_zero(first) is not False or _is_zero(second) is not False:
            continue
        values.append((first, second))
        if len(values) == NUM_POINTS:
            break
    if len(values) < MIN_POINTS:
        return False
    (first, second), *others = values
    signed = gold.func in (Equality, Unequality) or bool((first * second).evalf() > 0)
    return signed and all(_is_zero(first * other[1] - second * other[0]) is True for other in others)


def _oriented(relation: Relational) -> sympy.Expr:
    """The side that is zero, or positive, where the relation holds."""
    left, right = _evaluated(relation.lhs), _evaluated(relation.rhs)
    difference = right - left if isinstance(relation, (sympy.StrictLessThan, sympy.LessThan)) else left - right
    return sympy.fraction(sympy.together(difference))[0] if isinstance(relation, Equality) else difference


def _is_strict(relation: Relational) -> bool:
    return isinstance(relation, (sympy.StrictLessThan, sympy.StrictGreaterThan))


def _evaluated(tree: Any) -> Any:
    """The tree with sums, powers and functions evaluated, real odd roots, and unknown functions as variables."""
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


def _points(tree: sympy.Expr, real: bool = True) -> Iterator[_Point]:
    """Points at which the variables of a tree have rational values, and with `real` all of its parts are real."""
    evaluated = _evaluated(tree)
    symbols = sorted(evaluated.free_symbols, key=str)
    roots = [tuple(map(_evaluated, root)) for root in _roots(tree)] if real and not evaluated.has(sympy.I) else []
    for trial in range(NUM_TRIALS if symbols else 1):
        low, high = _RANGES[trial % len(_RANGES)]
        drawn, bottom = random.Random(trial), 1 if trial < len(_RANGES) else 7  # first whole numbers, then fractions
        point = {symbol: sympy.Rational(drawn.randint(low, high), drawn.randint(1, bottom)) for symbol in symbols}
        if all(base.subs(point).is_nonnegative or exponent.subs(point).is_integer for base, exponent in roots):
            yield point


def _roots(tree: sympy.Expr) -> Iterator[tuple[sympy.Expr, sympy.Expr]]:
    """Base and exponent of what is real for a negative base only where the exponent is whole."""
    for part in sympy.preorder_traversal(tree):
        if isinstance(part, sympy.log):
            yield part.args[0], sympy.S.Half
        elif isinstance(part, sympy.Pow) and not part.exp.is_integer and not _is_odd_root(part.exp):
            yield part.base, part.exp


def _is_zero(number: sympy.Expr) -> bool | None:
    """Whether a number is zero; None for what is no finite number."""
    try:
        value = number.evalf(10, maxn=DIGITS, strict=True)
    except PrecisionExhausted:
        return True
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return None
    if not value.is_number or not value.is_finite:
        return None
    return bool(value == 0)
