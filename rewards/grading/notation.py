"""One spelling for what LaTeX, Markdown and keyboards spell in many ways."""

from __future__ import annotations

import re

_LATEX = [
    (re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\[,!] ?)(?=\d{3})"), ","),
    (re.compile(r"\{:\}"), ":"),
    (re.compile(r"\\(?:left|right|displaystyle|limits)(?![a-z])|(?<!\\)\\[!,;:> ]|\\q?quad(?![a-z])|~"), " "),
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d|(?<![a-z])[a-z]|\\pi(?![a-z]))\s*([0-9A-Za-z]|\\pi(?![a-z]))"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d|\\pi(?![a-z]))\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z]|\\pi(?![a-z]))"), r"\1{\2}"),
    (re.compile(r"\\(?:(?:text|math)(?:bf|it|rm|sf)?|mbox|operatorname|bm|boldsymbol)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:rm|bf|it)(?![a-z])|\\color\s*\{\w+\}"), " "),
    (re.compile(r"\\(?:underline|textcolor\s*\{\w+\})\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\{([^{}]+)\\over(?![a-z])([^{}]+)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\{([^{}]+)\\choose(?![a-z])([^{}]+)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"^([^{}]+)\\over(?![a-z])([^{}]+)$"), r"\\frac{\1}{\2}"),
    (re.compile(r"^([^{}]+)\\choose(?![a-z])([^{}]+)$"), r"\\binom{\1}{\2}"),
    (re.compile(r"\^?\{?\\(?:circ|degree)(?![a-z])\s*\}?|\^\{?°\}?|\\textdegree\b"), "°"),
    (re.compile(r"\\([%$&#_])"), r"\1"),
    (re.compile(r"\\(?:times|cdot|ast)(?![a-z]) ?"), "*"),
    (re.compile(r"\s+\^(?!\s*\{?\\circ)"), "^"),
    (re.compile(r"\\(?:pounds|euro|yen|cents)\b"), lambda m: {"p": "£", "e": "€", "y": "¥", "c": "¢"}[m[0][1]]),
]  # fmt: skip
_MARKED = re.compile(r"[\\~]|\{[,:]\}")
"""What only LaTeX writes."""
_WRAPPERS = (
    *((sign, sign) for sign in ("$$", "$", "**", "__", "*", "_", "`", "'", '"')),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("{", "}"),
)
_END = re.compile(r"(?<![\s,;:。])(?:\s|\\[!,;:> ]|[,;:。])+$")
_PREFIX = re.compile(
    r"(?:the )?(?:final )?answer(?:\s*[:=]\s*| is )|let\b\s*|\*\s+"
    r"|(?:that|exactly|simply|just|only|equal to|equals|therefore|thus|hence|so|also)\b[\s,:]*"
    r"|(?:\\approx(?![a-z])|\\therefore(?![a-z])|≈|~(?!~)|approximately\b|approx\b\.?|=|:)\s*",
    re.IGNORECASE,
)
_ROUNDED = re.compile(r"(?<=\S)\s*(?:\\approx(?![a-z])|≈)\s*[\d.,]+\s*$")
"""An exact answer's decimals."""
_TO_SIGN = [
    (re.compile(r"\\lbrace(?![a-z])|\\\{"), "⦃"),
    (re.compile(r"\\rbrace(?![a-z])|\\\}"), "⦄"),
    (re.compile(r"\\(?:geqslant|geq|ge)(?![a-z])|>="), "≥"),
    (re.compile(r"\\(?:leqslant|leq|le)(?![a-z])|<="), "≤"),
    (re.compile(r"\\lt(?![a-z])"), "<"),
    (re.compile(r"\\gt(?![a-z])"), ">"),
    (re.compile(r"\\(?:neq|ne)(?![a-z])|\\not\s*="), "≠"),
    (re.compile(r"\\cup(?![a-z])"), "∪"),
    (re.compile(r"\\infty(?![a-z])|\binfinity\b|\binf\b"), "∞"),
    (re.compile(r"\\pm(?![a-z])|^\\mp(?![a-z])"), "±"),
    (re.compile(r"\\in(?![a-z])"), "∈"),
    (re.compile(r"\\(?:emptyset|varnothing)(?![a-z])"), "⦃⦄"),
    (re.compile(r"\\(?:div)(?![a-z])"), "/"),
    (re.compile(r"\\sqrt\s*(\d|[a-z](?![a-z]))"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![A-Za-z\\])\\?sqrt\s*\(([^()]{1,100})\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\A-Za-z])pi\b"), r"\\pi"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<=\d)\s*\^\s*\{?o\}?(?![A-Za-z])"), "°"),
    (re.compile(r"\^\s*\{\s*(\w)\s*\}(?!\d)"), r"^\1"),
    (re.compile(r"_\s*\{\s*(\w)\s*\}(?!\d)"), r"_\1"),
    (re.compile(r"\\(?:mid|[lr]?vert)(?![a-z])"), "|"),
    (re.compile(r"\\sqrt\s*(\[\d\])\s*(\d|[a-z](?![a-z]))"), r"\\sqrt\1{\2}"),
    (re.compile(r"\\mathbb\s*(?:\{\s*R\s*\}|R(?![A-Za-z]))|^all real(?: number)?s$", re.IGNORECASE), "(-∞,∞)"),
    (re.compile(r"\\[dt]binom(?![a-z])"), r"\\binom"),
    (re.compile(r"\\angle(?![a-z])"), "∠"),
    (re.compile(r"\\(begin|end)\s*\{[bB]matrix\}"), r"\\\1{pmatrix}"),
    (
        re.compile(
            r"[(\[]\s*\\begin\s*\{array\}\s*(?:\{[clr|\s]*\})?((?:(?!\\end).)*)\\end\s*\{array\}\s*[)\]]", re.DOTALL
        ),
        r"\\begin{pmatrix}\1\\end{pmatrix}",
    ),
]


def unwrapped(text: str) -> str:
    """The text without quotes, dollar signs, Markdown, "=", "approximately" and the sentence's end around it."""
    for _ in range(8):
        before = text
        text = _END.sub("", text.strip())
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for opened, closed in _WRAPPERS:
            inside = text[len(opened) : -len(closed)]
            wrapped = len(text) >= len(opened) + len(closed) and text.startswith(opened) and text.endswith(closed)
            again = any(
                sign in inside.replace("\\$", "")
                for sign in ("$", "{", "}", "\\(", "\\[", '"', "'")
                if sign in opened + closed
            )
            if wrapped and inside.strip() and not again:
                text = inside
        if text.startswith("\\{") or text == before:
            break
    found = _PREFIX.match(text)
    while found and found.end() and found.end() < len(text):
        text = text[found.end() :]
        found = _PREFIX.match(text)
    return text.strip()


def plain(text: str) -> str:
    """The text without LaTeX's spacing, fonts and spellings of signs."""
    if not _MARKED.search(text):
        return text.strip()
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text.strip()


def normal(text: str) -> str:
    """One spelling for what LaTeX and keyboards spell in many ways."""
    text = unwrapped(text)
    if text.count("$") >= 2 and text.count("$") % 2 == 0 and "\\$" not in text:
        text = text.replace("$", " ")
    text = re.sub(r"\\(?:left|right|[bB]igg?[lr]?)\s*(?=[\\()\[\]|.{}])", "", text)
    for pattern, sign in _TO_SIGN[:2]:
        text = pattern.sub(sign, text)
    text = plain(text)
    for pattern, sign in _TO_SIGN[2:]:
        text = pattern.sub(sign, text)
    text = _ROUNDED.sub("", text)
    return re.sub(r"\s+", " ", unwrapped(text)).strip()
