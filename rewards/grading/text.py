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

_RAISED = {ord(sign): plain for sign, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True)}
_LOWERED = {ord(sign): plain for sign, plain in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)}
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
    # NFKC alone would turn 5² into 52 and 3½ into 31/2, so these go first.
    text = re.sub("(?<![⁰-⁹¹²³])([⁰¹²³⁴-⁹]+)[⁄∕/]([₀-₉]+)", lambda m: f" {m[0].translate(_RAISED | _LOWERED)}", text)
    text = re.sub("[⁰¹²³⁴-⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(_RAISED) + "}", text)
    text = re.sub("[₀-₉]+", lambda m: "_{" + m[0].translate(_LOWERED) + "}", text)
    text = re.sub("[¼½¾⅐-⅞↉]", lambda m: " " + unicodedata.normalize("NFKC", m[0]), text)
    text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
    text = "".join(_ascii_digit(sign) for sign in text)
    return _ROOT.sub(lambda m: f"{_ROOTS[m[1]]}{{{m[2] or m[3]}}}", text)


def _ascii_digit(sign: str) -> str:
    if sign.isascii():
        return sign
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))
    return "" if unicodedata.category(sign) == "Cf" else sign
