"""Tests equality of expressions and relations: exact numbers, real domains, relations up to a factor."""

from __future__ import annotations

import pytest

from rewards.grading.symbolic import equal

SAME = (
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("\\sqrt{2}+\\sqrt{3}", "\\sqrt{5+2\\sqrt{6}}"),
    ("e^{i\\pi/3}", "\\frac{1}{2}+\\frac{\\sqrt{3}}{2}i"),
    ("(1+bi)^2", "1+2bi-b^2"),
    ("a_{i}+i", "\\sqrt{-1}+a_{i}"),
    ("\\log_{4} 8", "\\frac{3}{2}"),
    ("2^{100}", "1267650600228229401496703205376"),
    ("\\sin(\\frac{30\\pi}{180})", "\\frac{1}{2}"),
    ("(-8)^{1/3}", "-2"),
    ("x^2-1", "(x-1)(x+1)"),
    ("\\sec^{2} y", "\\tan^{2} y+1"),
    ("\\sin x+\\cos x", "\\sqrt{2}\\sin(x+\\frac{\\pi}{4})"),
    ("\\frac{n!}{k!(n-k)!}", "\\binom{n}{k}"),
    ("\\sum_{i=1}^{n} i", "\\frac{n(n+1)}{2}"),
    ("\\frac{1}{\\sqrt{n}}", "\\sqrt{1/n}"),
    ("\\sqrt[3]{8x^3}", "2x"),
    ("\\sqrt{x^2}", "|x|"),
    ("f(x)+1", "1+f(x)"),
    ("a\\leq b", "b\\geq a"),
    ("x+1<y", "2y>2x+2"),
    ("y=\\frac{1}{x}", "xy=1"),
    ("\\frac{x^2}{9}+\\frac{y^2}{4}=1", "4x^2+9y^2=36"),
)
DIFFERENT = (
    ("\\sqrt{2}", "1.414213562373095048801688724209698078"),
    ("e^{-40}", "e^{-41}"),
    ("\\frac{1}{20!}", "\\frac{1}{21!}"),
    ("1-2^{-60}", "1-2^{-61}"),
    ("1-2^{-400}", "1-2^{-401}"),
    ("\\pi+10^{-250}", "\\pi"),
    ("x+2^{-300}", "x+2^{-301}"),
    ("x", "|x|"),
    ("\\sqrt{x^2}", "x"),
    ("\\sqrt{-4}", "2"),
    ("a<b", "a\\leq b"),
    ("a<b", "b<a"),
    ("a\\neq b", "a=b"),
    ("x^2+y^2=25", "x^2+y^2=5"),
    ("x^2+y^2=25", "x^2-y^2=25"),
    ("y=2x+3", "2x+3"),
    ("\\frac{1}{0}", "\\infty"),
    ("\\frac{1", "1"),
)


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_equal_expressions_are_equal_in_either_order(gold, answer):
    assert equal(gold, answer)
    assert equal(answer, gold)


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_expressions_differ_in_either_order(gold, answer):
    assert not equal(gold, answer)
    assert not equal(answer, gold)


@pytest.mark.parametrize(("positive", "any_sign"), [("2\\ln x", "\\ln(x^2)"), ("\\sqrt{a}\\sqrt{b}", "\\sqrt{ab}")])
def test_a_variable_is_positive_only_if_the_gold_answer_says_so(positive, any_sign):
    assert equal(positive, any_sign)
    assert not equal(any_sign, positive)
