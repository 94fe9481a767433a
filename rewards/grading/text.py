"""Texts of one meaning get one spelling: signs of Unicode, commands of LaTeX, Markdown and special tokens."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from rewards.reply import MASK, SPECIAL

MAX_CHARACTERS = 65_536
"""Number of characters that are read, counted from the end."""
SEPARATOR = "\x1f"
"""This replaces a special token. It is white space to Python, but part of no number."""
UNDECIDED = "\ufffd"
"""This replaces a mask token. No right answer contains it."""
_MASK = re.compile(re.escape(MASK) + r"|<\|mask\|>|\[MASK\]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SMALL = re.compile("([⁰¹²³⁴-⁹]+[⁄∕/][₀-₉]+|[¼½¾⅐-⅞↉])|([⁰¹²³⁴-⁹⁻⁺ⁿ]+)|([₀-₉]+)")
"""This matches a fraction, an exponent or an index in small digits. NFKC alone turns 3½ into 31/2 and 5² into 52."""
_CHARACTERS = {
    **{ord(sign): "-" for sign in "−‐‑‒–﹣"},  # no em dash: it is punctuation
    **dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x3000), " "),
    **{ord(sign): plain for sign, plain in zip("×·⋅∙÷º˚⁄∕’‘“”\u066b\u066c∶∓", "****/°°//''\"\".,:±", strict=True)},
    ord("π"): "\\pi ", ord("θ"): "\\theta ", ord("∴"): "\\therefore ", ord("ℝ"): "\\mathbb{R}", ord("∅"): "⦃⦄",
    ord("。"): ". ", ord("、"): ", ",
}  # fmt: skip
_ROOT = re.compile(r"([√∛∜])\s*(?:\(([^()]{0,200})\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}
_SIGNS = {
    "*": "times cdot ast", "/": "div", "±": "pm mp", "⦃": "lbrace {", "⦄": "rbrace }", "∪": "cup", "∞": "infty",
    "≥": "ge geq geqslant", "≤": "le leq leqslant", "<": "lt", ">": "gt", "≠": "ne neq", "⦃⦄": "emptyset varnothing",
    "|": "mid vert lvert rvert", "∠": "angle", "…": "dots ldots cdots dotsc dotsb", " ": "quad qquad rm bf it , ; : >",
    "": "left right big Big bigl bigr Bigl Bigr bigg Bigg biggl biggr displaystyle limits !",
    "\\frac": "dfrac tfrac cfrac", "\\binom": "dbinom tbinom", "£": "pounds", "€": "euro", "¥": "yen", "¢": "cents",
    "∈": "in", **{sign: sign for sign in "%$&#_"},
}  # fmt: skip
_OF_COMMAND = {name: sign for sign, names in _SIGNS.items() for name in names.split()} | {" ": " "}
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_ARGUMENT = r"(\d|\\pi(?![a-z])|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))"
_RULES = tuple(
    (re.compile(pattern, re.VERBOSE | re.DOTALL | flags), replacement)
    for pattern, replacement, flags in (
        (r"\{([,:])\}", r"\1", 0),  # 32{,}348 is 32,348 and 3{:}45 is 3:45
        (r"~", " ", 0),
        # fonts
        (r"\\mathbb \s* (?: \{\s*R\s*\} | R(?![A-Za-z]) )", "(-∞,∞)", 0),
        (r"\\(?:math(?:rm|it|bf|sf)|operatorname|text(?:rm|it)?) \s* \{\s* ([eid]) \s*\}", r"\1", 0),
        (r"\\(?: (?:text|math)(?:bf|it|rm|sf)? | mbox | operatorname | bm | boldsymbol | underline"
         r" | textcolor\s*\{\w+\} ) \s* \{([^{}]*)\}", r" \1 ", 0),
        (r"\\color \s* \{\w+\}", " ", 0),
        (r"^ \s* all\ real(?:\ number)?s \s* $", "(-∞,∞)", re.IGNORECASE),
        # fractions, binomial coefficients, roots
        (r"(?:\{|^) ([^{}]+) \\over(?![a-z]) ([^{}]+) (?:\}|$)", r"\\frac{\1}{\2}", 0),
        (r"(?:\{|^) ([^{}]+) \\choose(?![a-z]) ([^{}]+) (?:\}|$)", r"\\binom{\1}{\2}", 0),
        (rf"(\\(?: frac | binom | sqrt(?:\[\d\])? )) \s* {_ARGUMENT}", r"\1{\2}", 0),
        (rf"(\\(?: frac | binom ) \s* \{{[^{{}}]*\}}) \s* {_ARGUMENT}", r"\1{\2}", 0),
        (r"(?<![A-Za-z\\]) \\? sqrt \s* \(([^()]{1,100})\)", r"\\sqrt{\1}", 0),
        (r"(?<![\\A-Za-z]) pi \b", r"\\pi", 0),
        # signs
        (r"\^? \{? \\(?:circ|degree)(?![a-z]) \s* \}? | \^\{?°\}? | (?<=\d)\s*\^\s*\{?o\}?(?![A-Za-z])", "°", 0),
        (r"\\not\s*= | !=", "≠", 0),
        (r">=", "≥", 0),
        (r"<=", "≤", 0),
        (r"\b inf(?:inity)? \b", "∞", 0),
        (r"\.{3,}", "…", 0),
        (r"(?<=[\w)}]) \*\* (?=[\w({-])", "^", 0),
        (r"\s+ \^", "^", 0),
        (r"\^ \s* (- (?: \d+ | [A-Za-z](?![A-Za-z]) ))", r"^{\1}", 0),  # LaTeX reads x^-2 as x^{-}2
        (r"([\^_]) \s* \{\s* (\w) \s*\} (?!\d)", r"\1\2", 0),
        # matrices
        (r"\\(begin|end) \s* \{[bB]matrix\}", r"\\\1{pmatrix}", 0),
        (r"[(\[] \s* \\begin \s* \{array\} \s* (?:\{[clr|\s]*\})? ((?:(?!\\end).)*) \\end \s* \{array\} \s* [)\]]",
         r"\\begin{pmatrix}\1\\end{pmatrix}", 0),
    )
)  # fmt: skip
_RESPELLED = re.compile(r"[^\w\s.,:;?%$()+-]|pi\b|inf|all real|sqrt|\.\.\.", re.IGNORECASE)
"""Only a text with one of these can have another spelling."""
_WRAPPED = re.compile(
    r"""\$\$((?:[^$]|\\\$)+)\$\$ | \$((?:[^$]|\\\$)+)\$ | \\\(((?:(?!\\\().)+)\\\) | \\\[((?:(?!\\\[).)+)\\\]
      | \*\*(.+)\*\* | \*(.+)\* | __(.+)__ | _(.+)_ | `(.+)` | '([^']+)' | "([^"]+)" | \{([^{}]+)\}""",
    re.VERBOSE | re.DOTALL,
)
_END = re.compile(r"(?<![\s,;:。])(?:\s|\\[!,;:> ]|[,;:。])+$|(?<!\.)\.$")
_PREFIX = re.compile(
    r"""(?:the\ )? (?:final\ )? answer (?: \s*[:=]\s* | \ is\ )
      | let\b\s* | \*\s+
      | (?:that|exactly|simply|just|only|equal\ to|equals|therefore|thus|hence|so|also)\b [\s,:]*
      | (?:\\approx(?![a-z]) | \\therefore(?![a-z]) | ≈ | ~(?!~) | approximately\b | approx\b\.? | = | :) \s*""",
    re.IGNORECASE | re.VERBOSE,
)


def clean(text: str) -> str:
    """Returns the last ``MAX_CHARACTERS`` characters in plain form, with separators for special tokens."""
    text = text[-MAX_CHARACTERS:].replace("\x08oxed", "\\boxed")  # what "\boxed" becomes in a string that is not raw
    text = _CONTROL.sub("", text.replace("\r", "\n"))
    if "<" in text or "[" in text:
        text = SPECIAL.sub(SEPARATOR, _MASK.sub(UNDECIDED, text))
    if text.isascii():
        return text
    text = _SMALL.sub(lambda m: f" {m[1]}" if m[1] else f"^{{{m[2]}}}" if m[2] else f"_{{{m[3]}}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    visible = (sign for sign in text if unicodedata.category(sign) != "Cf")
    text = "".join(str(int(sign)) if sign.isdecimal() else sign for sign in visible)
    return _ROOT.sub(lambda m: f"{_ROOTS[m[1]]}{{{m[2] or m[3]}}}", text)


@lru_cache(maxsize=4096)  # the samples of one prompt share their gold
def canonical(text: str) -> str:
    """Returns the text in one spelling: signs instead of commands, without fonts, spacing and wrapping."""
    text = strip_wrapping(text)
    if text.count("$") >= 2 and text.count("$") % 2 == 0 and "\\$" not in text:
        text = text.replace("$", " ")
    if not _RESPELLED.search(text):
        return re.sub(r"[ \t]+", " ", text)
    text = _COMMAND.sub(lambda m: _OF_COMMAND.get(m[1], m[0]), text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = re.sub(r"(?<=\S)\s*(?:\\approx(?![a-z])|≈)\s*[\d.,]+\s*$", "", text)  # decimals behind an exact answer
    return strip_wrapping(re.sub(r"[ \t]+", " ", text))


def strip_wrapping(text: str) -> str:
    """Removes quotes, dollar signs, Markdown, "=", "approximately" and the end of the sentence around a text."""
    before = None
    while text != before:
        before = text
        text = _END.sub("", text.strip())
        wrapped = _WRAPPED.fullmatch(text)
        text = wrapped[wrapped.lastindex or 0] if wrapped else text
    while (found := _PREFIX.match(text)) and 0 < found.end() < len(text):
        text = text[found.end() :]
    return text.strip()
