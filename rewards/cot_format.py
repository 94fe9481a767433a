"""Reward for the format of a response with thoughts and an answer: ``<think> ... </think> answer``."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.base import Reward, RewardInput, check_text_prompt
from rewards.reply import MASK, SPECIAL, without_padding

THINK, END_THINK = "<think>", "</think>"
ANSWER, END_ANSWER = "<answer>", "</answer>"


class CotFormat(Reward):
    """1 for exactly one ``<think>`` pair, at the start, with thoughts inside and an answer after it; otherwise 0."""

    name = "cot_format"
    range = (0.0, 1.0)
    unit = "1 if well formed"

    def __init__(
        self, require_answer_tag: bool = False, prefilled_think: bool = False, strict_newlines: bool = False
    ) -> None:
        """Chooses the format.

        Args:
            require_answer_tag: The answer must be inside one ``<answer>`` pair, with nothing after it.
            prefilled_think: The prompt ends in ``<think>``, so the response must not open it again.
            strict_newlines: Each tag must be on its own line.
        """
        self._options = {
            "require_answer_tag": require_answer_tag,
            "prefilled_think": prefilled_think,
            "strict_newlines": strict_newlines,
        }

    def __call__(self, inputs: Sequence[RewardInput]) -> list[float | None]:
        return [float(is_well_formed(item.completion, **self._options)) for item in inputs]

    def check_prompt(self, prompt: RewardInput) -> None:
        check_text_prompt(prompt)


def is_well_formed(
    text: str, *, require_answer_tag: bool = False, prefilled_think: bool = False, strict_newlines: bool = False
) -> bool:
    """Whether a completion has the format of :class:`CotFormat`; time linear in its length.

    Special tokens and end-of-text padding do not count; a mask token that is left does.

    >>> is_well_formed("<think>3+4=7</think>7"), is_well_formed("<think></think>7")
    (True, False)
    """
    if MASK in text:
        return False
    text = SPECIAL.sub("", without_padding(text))
    tags = ([] if prefilled_think else [THINK]) + [END_THINK] + ([ANSWER, END_ANSWER] if require_answer_tag else [])
    if (THINK in text and prefilled_think) or any(text.count(tag) != 1 for tag in tags):
        return False
    parts: list[str] = []
    rest = text
    for tag in tags:
        part, found, rest = rest.partition(tag)
        if not found:  # the tags are there in another order
            return False
        parts.append(part)
    before = [] if prefilled_think else [parts.pop(0)]
    filled = [parts[0], parts[2] if require_answer_tag else rest]
    blank = [*before, *([parts[1], rest] if require_answer_tag else [])]
    if any(map(_is_blank, filled)) or not all(map(_is_blank, blank)):
        return False
    return not strict_newlines or all(_has_own_line(text.strip(), tag) for tag in tags)


def _is_blank(text: str) -> bool:
    """Whether a text is invisible: white space, control and zero-width characters."""
    return not any(sign.isprintable() and not sign.isspace() for sign in text)


def _has_own_line(text: str, tag: str) -> bool:
    start = text.index(tag)
    end = start + len(tag)
    return (start == 0 or text[start - 1] == "\n") and (end == len(text) or text[end] == "\n")
