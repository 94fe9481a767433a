"""The characters of a response become plain ones: special tokens, padding, and digits and signs of Unicode."""

from __future__ import annotations

import re
import unicodedata

CAP = 65_536
"""Number of characters that are read, counted from the end."""
MASK = "<|mdm_mask|>"
"""The tokenizer of MMaDA prints this for a position that is still masked."""
SEPARATOR = "\x1f"
"""This replaces a special token. It is white space to Python, but part of no number."""
UNDECIDED = "\ufffd"
"""This replaces a mask token. No right answer contains it."""

SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:pad|bos|eos|unk)>", re.IGNORECASE)
_MASK = re.compile(re.escape(MASK) + r"|<\|mask\|>|\[MASK\]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

_SMALL = re.compile("([⁰¹²³⁴-⁹]+[⁄∕/][₀-₉]+|[¼½¾⅐-⅞↉])|([⁰¹²³⁴-⁹⁻⁺ⁿ]+)|([₀-₉]+)")
"""This matches a fraction, an exponent or an index in small digits. NFKC alone turns 3½ into 31/2 and 5² into 52."""
_SIGNS = {
    **{ord(sign): "-" for sign in "−‐‑‒–﹣"},  # no em dash: it is punctuation
    **dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x3000), " "),
    **{ord(sign): plain for sign, plain in zip("×·⋅∙÷º˚⁄∕’‘“”\u066b\u066c∶∓", "****/°°//''\"\".,:±", strict=True)},
    ord("π"): "\\pi ", ord("θ"): "\\theta ", ord("∴"): "\\therefore ", ord("ℝ"): "\\mathbb{R}", ord("∅"): "⦃⦄",
    ord("。"): ". ", ord("、"): ", ",
}  # fmt: skip
_ROOT = re.compile(r"([√∛∜])\s*(?:\(([^()]{0,200})\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_ROOTS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}


def without_padding(text: str) -> str:
    """Returns the text without the special tokens and white space at its end."""
    end = len(text)
    while end:
        if text[end - 1].isspace() or text[end - 1] == "\0":
            end -= 1
            continue
        start = text.rfind("<", max(0, end - 48), end)
        if start < 0 or text.startswith(MASK, start) or not SPECIAL.fullmatch(text, start, end):
            break
        end = start
    return text[:end]


def clean(text: str) -> str:
    """Returns the last ``CAP`` characters in plain form, with separators for special tokens."""
    text = text[-CAP:].replace("\x08oxed", "\\boxed")  # what "\boxed" becomes in a string that is not raw
    text = _CONTROL.sub("", text.replace("\r", "\n"))
    if "<" in text or "[" in text:
        text = SPECIAL.sub(SEPARATOR, _MASK.sub(UNDECIDED, text))
    return text if text.isascii() else _plain(text)


def _plain(text: str) -> str:
    text = _SMALL.sub(lambda m: f" {m[1]}" if m[1] else f"^{{{m[2]}}}" if m[2] else f"_{{{m[3]}}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    visible = (sign for sign in text if unicodedata.category(sign) != "Cf")
    text = "".join(str(int(sign)) if sign.isdecimal() else sign for sign in visible)
    return _ROOT.sub(lambda m: f"{_ROOTS[m[1]]}{{{m[2] or m[3]}}}", text)
