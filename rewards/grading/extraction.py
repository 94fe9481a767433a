"""The final answer of a response is found in time that is linear in its length.

Only what follows the last ``</think>`` counts, and inside of it the last ``<answer>`` tag; a tag that is not closed
leaves no answer. What is left holds candidates, the surest first:

1. The last balanced ``\\boxed{}`` or ``\\fbox{}``. Boxes joined by nothing but "or", "and" or a comma are one answer,
   so that a hedge stays a hedge. A box that is not closed, or is a part of an expression, leaves no answer.
2. The last line after ``####`` that is no heading.
3. The last "answer is" or "answer:" clause, or a last line that begins with "A:", up to the end of the sentence; for
   choices the only line that begins with a letter such as "(B)", if it is the last one.
4. The whole text, if it is short, and otherwise its last sentence.

Candidates 1 to 3 leave no answer if the text behind them takes them back ("wait", "actually", "or maybe").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rewards.grading.text import clean
from rewards.reply import without_padding

SHORT = 200
"""Number of characters of the longest whole text, and of the longest last sentence, that can be an answer."""
MAX_LENGTH = 2000
"""Number of characters of the longest answer."""

_BOX = re.compile(r"\\(?:boxed|fbox)(?:(?P<bare>\s*-?[\d.,]+|\s+[^\s{}$]+)|\s*\{)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN_BOXES = re.compile(r"\\(?:q?quad|text\b|[,;:! ])|[\s$,;/{}]|[A-Za-z](?:_\w)?\s*=")
_FACTOR_BEFORE = re.compile(r"(?:\d|(?<![-\w])-|\\pm\s?)$")
_FACTOR_BEHIND = re.compile(
    r"\s?(?:[+*/±]\s?[\d\\(]|\\(?:sqrt|pi|frac|cdot|times|div|pm)(?![a-z]))|\^(?!\s*\{?\\circ)|-?\d|[a-z](?![a-z])"
)
"""A box with this beside it is a part of an expression."""
_HASHES = re.compile(
    r"""\#\#\#\# (?! [\s*_\#]{0,20}
      (?: step|part|case|method|section|question|problem|solution|calculation|conclusion|explanation|final|answer|given
      |note|check|verification|result|understand|find|total|determine|calculate|compute )\b )
    [ \t\#]{0,20} ([^\s\#][^\n]{0,1999}) $""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_CLAUSE = re.compile(
    r"""(?: \banswer\b (?: [ \t*_]{0,8}[:=\n]| [^.\n:=?]{0,60}? \b(?:is|are|equals|(?:will|would|must|should)[ ]be)\b )
      | \b(?:correct|right|best)[ ](?:option|choice)\b[ \t]{0,4}(?:is|:)
      | 答案\s{0,4}(?:应?是|应?为|选择?)? | (?:故|应|所以|因此|\\therefore)\s{0,4}选\s{0,4}[项择]? )
    [\s*_]{0,16} :? [\s*_]{0,16}""",
    re.IGNORECASE | re.VERBOSE,
)
_LAST_LINE = re.compile(r"[ \t*_]{0,8}A[ \t*_]{0,8}:[ \t*_]{0,16}")
_OPTION_LINE = re.compile(r"^[ \t*(\[]{0,8}[A-J](?:[)\].:*]|[ \t]*$)", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<!\.)[.!?](?=[\s\"')\]*]|$)|\n|(?<=[.!?])\s")
_DISPLAYED = re.compile(r"(?:\$\$|\\[\[(])(.{1,2000}?)(?:\$\$|\\[\])])", re.DOTALL)
_RETRACTED = re.compile(
    r"""\A[\s$})\]\\]*\(?\s*or\b
      | \b(?: wait | actually | scratch[ ]that | correction | on[ ]second[ ]thoughts? | hold[ ]on | i[ ]was[ ]wrong
      | my[ ]mistake | not[ ]sure | alternatively,?[ ](?:it|the[ ]answer|\$?\d)
      | (?:or[ ])?(?:maybe|perhaps|possibly)[ ](?:it|the) | or[ ](?:maybe|perhaps|possibly|it|rather)
      | (?:could|might|may)[ ](?:also[ ]|instead[ ])?be
        (?![ ](?:verified|checked|written|simplified|expressed|seen|found|rounded)\b)
      | no,[ ](?:it|the|that) | that(?:'s|[ ]is)[ ]wrong )\b""",
    re.IGNORECASE | re.VERBOSE,
)


Answer = NamedTuple("Answer", [("text", str), ("rule", str), ("end", int)])
"""An answer as it was written, how it was found, and the place where it ends. The rule is one of `tag`, `box`, `hash`,
`clause`, `rest` (all that follows the thoughts), `whole` and `sentence`."""


def candidates(text: str, letters: bool = False) -> Iterator[Answer]:
    """Yields the answers that a response may mean, the surest first; with `letters`, a line "A: 12" is option A."""
    _, thoughts_end, text = without_padding(text).rpartition("</think>")
    if "<think>" in text:
        return
    *before_tag, text = re.split("<answer>", clean(text), flags=re.IGNORECASE)
    if before_tag:
        text, *behind = re.split("</answer>", text, maxsplit=1, flags=re.IGNORECASE)
        if not behind or _RETRACTED.search(behind[0]):
            return
    box = _boxed(text)
    if box is None and ("\\boxed" in text or "\\fbox" in text):
        return
    hashes = [Answer(found[1].rstrip("# \t"), "hash", found.end()) for found in _HASHES.finditer(text)]
    marked = list(filter(None, (box, *hashes[-1:], _clause(text, letters))))
    for answer in marked:
        if not 0 < len(answer.text) <= MAX_LENGTH or _RETRACTED.search(text[answer.end :]):
            return
        yield answer
    text = "" if marked else text.strip()
    if 0 < len(text) <= (MAX_LENGTH if before_tag else SHORT):
        yield Answer(text, "tag" if before_tag else "rest" if thoughts_end else "whole", len(text))
    end = text.rstrip("*_$ \n")[-SHORT - 1 :]
    starts = [found.end() for found in _SENTENCE_END.finditer(end[:-1])] if end.endswith((".", "!")) else []
    sentence = end[starts[-1] :].strip() if starts else ""
    if sentence and not _RETRACTED.search(sentence):
        yield Answer(re.sub(r"(?<=[a-z])[.!]+$", "", sentence), "sentence", len(text))


def _boxed(text: str) -> Answer | None:
    """Returns the last of the outermost boxes and those that are joined to it, or None if a box is not closed."""
    parts, word, start, end = dict[str, None](), "and", 0, 0
    while found := _BOX.search(text, end):
        between = text[end : found.start()]
        joined = _BETWEEN_BOXES.sub("", between)
        if not parts or joined not in ("", "and", "or") or "\n" in between:
            parts, word = {}, "and"
        elif joined == "or":
            word = "or"
        depth, start, end = 1, found.start(), found.end() if found["bare"] else 0
        for brace in () if end else _BRACE.finditer(text, found.end()):
            depth += (brace[0] == "{") - (brace[0] == "}")
            if depth == 0:
                end = brace.end()
                break
        if not end:
            return None
        parts[(found["bare"] or text[found.end() : end - 1]).strip()] = None
    if not parts or _FACTOR_BEFORE.search(text[max(0, start - 8) : start]) or _FACTOR_BEHIND.match(text, end):
        return None
    answer = re.sub(r"\\(?:boxed|fbox)\b", "", f" {word} ".join(parts))
    return Answer(answer.rstrip(".") if "{" in answer else answer, "box", end)


def _clause(text: str, letters: bool) -> Answer | None:
    """Returns the text after the last "answer is" to the end of its sentence, or of its displayed formula."""
    ends = [found.end() for found in _CLAUSE.finditer(text)]
    options = list(_OPTION_LINE.finditer(text)) if letters and not ends else []
    if len(options) == 1 and "\n" not in text[options[0].end() :].strip():
        return Answer(text[options[0].start() :].strip(), "clause", len(text))
    line = None if letters else _LAST_LINE.match(text, text.rstrip().rfind("\n") + 1)
    ends += [line.end()] if line else []
    if not ends:
        return None
    start = max(ends)
    if displayed := _DISPLAYED.match(text, start):
        return Answer(displayed[1].strip(), "clause", displayed.end())
    end = _SENTENCE_END.search(text, start)
    stop = end.start() if end else len(text)
    span, mark = text[start:stop].strip(), text[stop : stop + 1]
    if mark == "!" and span[-1:].isdigit():
        span += "!"  # may be a factorial
    return Answer(span, "clause", stop) if mark != "?" and 0 < len(span) <= MAX_LENGTH else None
