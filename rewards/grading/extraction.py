"""Where the final answer stands in a response.

The first rule that applies decides, in linear time:

1. A ``<think>`` that is not closed: no answer. Else only the text after the last ``</think>`` counts.
2. The last ``<answer>`` tag; one that is not closed: no answer. The rules below apply again to its content.
3. The last balanced ``\\boxed{}`` or ``\\fbox{}``; one that is not closed: no answer. Boxes joined by nothing but
   "or", "and" or a comma are one answer, so that a hedge stays a hedge.
4. The last line after ``####`` that is no heading.
5. The last "answer is", "answer:" clause, or a last line that begins with "A:", up to the end of the sentence; for
   choices the only line that begins with a letter such as "(B)", if it is the last one.
6. The whole text, if it is short.

Rules 3 to 5 give no answer if the text behind takes it back ("wait", "actually", "or maybe").
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

from rewards.grading.text import clean, without_padding

SHORT = 200
"""Longest whole text, in characters, that can be an answer."""
LONGEST = 2000
"""Longest answer, in characters."""

_BOX = re.compile(
    r"\\(?:boxed|fbox)\s*-?[\d.,]+|\\(?:boxed|fbox)\s*\{|\\(?:boxed|fbox)\s+[^\s{}$]+|\\.|[{}]", re.DOTALL
)
_JOIN = re.compile(
    r"[\s$]*(?:\\(?:quad|qquad|[,;:! ]))*(?:,|;|/|\\text\{)?[\s$]*(and|or|)[\s$]*\}?[\s$]*"
    r"(?:\\(?:quad|qquad|[,;:! ]))*[\s$]*(?:[A-Za-z](?:_\w|_\{\w\})?\s*=\s*)?[\s$]*"
)
_FACTOR_BEFORE = re.compile(r"(?:\d|(?<![-\w])-|\\pm\s?)$")
_FACTOR_BEHIND = re.compile(
    r"\s?(?:[+*/]\s?[\d\\(]|\\(?:sqrt|pi|frac|cdot|times|div|pm)(?![a-z]))|\^(?!\s*\{?\\circ)|-\d|\d|[a-z](?![a-z])"
)
"""What makes a box a part of an expression, not the whole of it."""
_HEADING = re.compile(
    r"[\s*_]*(?:step|part|case|method|section|question|problem|solution|calculation|conclusion|explanation|final|answer|"
    r"given|note|check|verification|result|understand|find|total|determine|calculate|compute)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"(?:\banswer\b(?:[^.\n:=?]{0,60}?\b(?:is|are|equals|(?:will|would|must|should) be)\b|[ \t*_]{0,8}[:=])"
    r"|\banswer[\s*_]{0,8}\n"
    r"|\b(?:correct|right|best) (?:option|choice)\b[ \t]{0,4}(?:is|:)"
    r"|答案\s{0,4}(?:应)?(?:是|为|选择?)?\s{0,4}:?|(?:故|应|所以|因此|\\therefore)\s{0,4}选\s{0,4}(?:项|择)?\s{0,4}:?)[\s*_]{0,16}:?[\s*_]{0,16}",
    re.IGNORECASE,
)
_LAST_LINE = re.compile(r"[ \t*_]{0,8}A[ \t*_]{0,8}:[ \t*_]{0,16}")
_OPTION_LINE = re.compile(r"^[ \t*(\[]{0,8}[A-J](?:[)\].:*]|[ \t]*$)", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<!\.)[.!?](?=[\s\"')\]*]|$)|\n|(?<=[.!?])\s")
_DISPLAY = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"))
_HEDGED = re.compile(r"[\s$})\]\\]*\(?\s*or\b", re.IGNORECASE)
_RETRACTED = re.compile(
    r"\b(?:wait|actually|scratch that|correction|on second thoughts?|hold on|i was wrong|my mistake|not sure"
    r"|alternatively,? (?:it|the answer|\$?\d)|or (?:maybe|perhaps|possibly|it|rather)"
    r"|(?:maybe|perhaps|possibly) (?:it|the)"
    r"|(?:could|might|may) (?:also |instead )?be"
    r"(?! (?:verified|checked|written|simplified|expressed|seen|found|rounded)\b)"
    r"|no, (?:it|the|that)|that is wrong|that's wrong)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """An answer as it was written."""

    text: str
    """The span."""
    rule: str
    """`tag`, `box`, `hash`, `clause`, `rest` (all that follows the thoughts) or `whole`."""


def extract(text: str, letters: bool = False) -> Answer | None:
    """The final answer of a response, or None; time linear in its length.

    Args:
        text: Response of a model.
        letters: The answers are letters of options, so that a last line "A: 12" is option A.

    >>> extract("<think>2+2</think>The answer is 4.")
    Answer(text='4', rule='clause')
    """
    text = without_padding(text)
    opened, closed = text.rfind("<think>"), text.rfind("</think>")
    if opened > closed:
        return None
    if closed >= 0:
        text = text[closed + len("</think>") :]
    text = clean(text)
    lower = text.lower() if "<" in text else ""
    tag = lower.rfind("<answer>")
    if tag < 0:
        return _untagged(text, "rest" if closed >= 0 else "whole", letters)
    end = lower.find("</answer>", tag)
    if end < 0:
        return None
    inside = text[tag + len("<answer>") : end].strip()
    if not inside or _is_taken_back(text, end + len("</answer>")):
        return None
    return _untagged(inside, "tag", letters)


def _untagged(text: str, otherwise: str, letters: bool) -> Answer | None:
    if "\\boxed" in text or "\\fbox" in text:
        return _box(text)
    found = _after_hashes(text) or _clause(text, letters)
    if found:
        answer, end = found
        return None if _is_taken_back(text, end) else answer
    text = text.strip()
    return Answer(text, otherwise) if 0 < len(text) <= (LONGEST if otherwise == "tag" else SHORT) else None


def _is_taken_back(text: str, end: int) -> bool:
    return bool(_HEDGED.match(text, end) or _RETRACTED.search(text, end))


def _box(text: str) -> Answer | None:
    boxes: list[tuple[int, int, int]] = []  # start of the command, start and end of the content
    stack: list[tuple[int, int] | None] = []
    open_boxes = 0
    for token in _BOX.finditer(text):
        sign = token[0]
        if sign.startswith(("\\boxed", "\\fbox")):
            if sign.endswith("{"):
                stack.append(token.span())
                open_boxes += 1
            elif not open_boxes:
                start = token.start() + len(re.split(r"[\s\d.,-]", sign, maxsplit=1)[0])
                boxes.append((token.start(), start, token.end()))
        elif sign == "{":
            stack.append(None)
        elif sign == "}" and stack:
            opened = stack.pop()
            if opened:
                open_boxes -= 1
                if not open_boxes:
                    boxes.append((*opened, token.start()))
    if open_boxes or not boxes or _is_taken_back(text, boxes[-1][2]) or _is_a_part(text, boxes[-1]):
        return None
    parts = [text[boxes[-1][1] : boxes[-1][2]].strip()]
    word = "and"
    for before, after in zip(reversed(boxes[:-1]), reversed(boxes), strict=False):
        between = text[before[2] : after[0]].removeprefix("}")
        joined = _JOIN.fullmatch(between) if len(between) < 40 and "\n" not in between else None
        if not joined:
            break
        word = "or" if joined[1] == "or" else word
        part = text[before[1] : before[2]].strip()
        if part not in parts:
            parts.insert(0, part)
    answer = re.sub(r"\\(?:boxed|fbox)\b", "", f" {word} ".join(parts)) if len(parts) < 20 else ""
    return Answer(answer.rstrip(".") if answer.count("{") else answer, "box") if 0 < len(answer) <= LONGEST else None


def _is_a_part(text: str, box: tuple[int, int, int]) -> bool:
    start, _, end = box
    end += text[end : end + 1] == "}"
    return bool(_FACTOR_BEFORE.search(text, max(0, start - 8), start) or _FACTOR_BEHIND.match(text, end))


def _after_hashes(text: str) -> tuple[Answer, int] | None:
    end = len(text)
    for _ in range(64):  # headings are skipped, but not without end
        start = text.rfind("####", 0, end)
        if start < 0:
            return None
        stop = text.find("\n", start)
        stop = len(text) if stop < 0 else stop
        line = text[start + 4 : stop].strip("# \t")
        if line and len(line) <= LONGEST and not _HEADING.match(line):
            return Answer(line, "hash"), stop
        end = start
    return None


def _clause(text: str, letters: bool) -> tuple[Answer, int] | None:
    last = next(iter(deque(_CLAUSE.finditer(text), maxlen=1)), None)
    line = None if letters else _LAST_LINE.match(text, text.rstrip().rfind("\n") + 1)
    options = list(_OPTION_LINE.finditer(text)) if letters and last is None else []
    if len(options) == 1 and "\n" not in text[options[0].end() :].strip():
        return Answer(text[options[0].start() :].strip(), "clause"), len(text)
    start = max(last.end() if last else -1, line.end() if line else -1)
    if start < 0:
        return None
    for opened, closed in _DISPLAY:
        if text.startswith(opened, start):
            stop = text.find(closed, start + 2)
            if 0 <= stop <= start + LONGEST:
                return Answer(text[start + 2 : stop].strip(), "clause"), stop
    stop = len(text)
    for found in _SENTENCE_END.finditer(text, start):
        stop = found.start()
        break
    span = text[start:stop].strip()
    if text[stop : stop + 1] == "?":
        return None
    if text[stop : stop + 1] == "!" and span[-1:].isdigit():
        span += "!"  # may be a factorial
    return (Answer(span, "clause"), stop) if 0 < len(span) <= LONGEST else None
