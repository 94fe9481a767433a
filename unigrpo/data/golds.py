"""The gold answer in the formats of public data sets."""

from __future__ import annotations

import re

GOLD_SEPARATOR = "####"
"""Separator of GSM8K's solutions; the answer follows the last one."""
BOXED = "\\boxed{"
ANSWER_TAGS = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
END_THINK = "</think>"
ANSWER_LINE = re.compile(
    r"(?:\bans(?:wer)?\s*(?:is\s*)?|\u7b54\u6848[\u662f\u4e3a]?\s*)[:\uff1a]\s*([^\n]+)", re.IGNORECASE
)
"""The text after `Answer:`, `Ans:` or its Chinese word on its line, with an ordinary or a full-width colon."""
BETWEEN_BOXES = re.compile(r"(?:[\s$,;.]|\band\b|\bor\b)*")


def gold_answer(label: str) -> str:
    """Returns the answer in a gold answer or in a whole solution.

    It is the text after the last ``####``, in the last answer tags or in the last box, or otherwise after the last
    ``Answer:``. A text without these marks is the answer itself.

    >>> gold_answer("48/2 = 24. #### 24"), gold_answer("<answer> 3 </answer>"), gold_answer("Hence \\\\boxed{7}.")
    ('24', '3', '7')
    >>> gold_answer("The angle is halved. Answer: B"), gold_answer(" x + 1 ")
    ('B', 'x + 1')
    """
    text = label.rpartition(GOLD_SEPARATOR)[2]
    if GOLD_SEPARATOR in label and ANSWER_LINE.search(text):  # MetaMathQA says it again on another line
        text = text.strip().partition("\n")[0]
    tagged = ANSWER_TAGS.findall(text)
    text = tagged[-1] if tagged else text.rpartition(END_THINK)[2]
    box = None if is_list_of_boxes(text) else last_box(text)
    if box is not None:
        return box
    lines = ANSWER_LINE.findall(text)
    if lines and GOLD_SEPARATOR not in label and not tagged:
        text = lines[-1].strip().strip("*").strip().removesuffix(".")
    return text.strip()


def last_box(text: str) -> str | None:
    """Returns the content of the last ``\\boxed{}``, whose braces must close; None if there is none, or an empty
    one."""
    start = text.rfind(BOXED)
    if start < 0:
        return None
    end = _closing_brace(text, start + len(BOXED))
    return None if end is None else text[start + len(BOXED) : end].strip() or None


def is_list_of_boxes(text: str) -> bool:
    """Whether a text is several boxes with nothing but commas and words such as "and" between them."""
    parts: list[str] = []
    rest = text
    while BOXED in rest:
        before, _, behind = rest.partition(BOXED)
        end = _closing_brace(behind, 0)
        if end is None:
            return False
        parts.append(before)
        rest = behind[end + 1 :]
    return len(parts) > 1 and all(BETWEEN_BOXES.fullmatch(part) for part in (*parts, rest))


def _closing_brace(text: str, start: int) -> int | None:
    """Returns the position of the brace that closes the one before ``start``."""
    depth = 1
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return end
    return None
