"""The part of a response that answers the user: the text after the thoughts and before the padding."""

from __future__ import annotations

import re

MASK = "<|mdm_mask|>"
"""Text of the mask token in the tokenizer of MMaDA."""
SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:pad|bos|eos|unk)>", re.IGNORECASE)
"""Pattern of a special token."""
_PADDING = re.compile(rf"(?:[\s\0]|(?!{re.escape(MASK)})(?:{SPECIAL.pattern}))+\Z", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_BOX = re.compile(r"\\boxed\{([^{}]*)\}")


def without_padding(text: str) -> str:
    """Returns the text without the special tokens and white space at its end, in linear time."""
    end = len(text)
    while found := _PADDING.search(text, max(0, end - 48), end):  # no special token is longer
        end = found.start()
    return text[:end]


def after_thoughts(completion: str) -> str:
    """Returns the text of a response after its thoughts; empty if the thoughts do not end.

    >>> after_thoughts("<think>A dog?</think> A brown dog."), after_thoughts("<think>A dog"), after_thoughts("A dog")
    ('A brown dog.', '', 'A dog')
    """
    after = completion.rpartition("</think>")[2]
    return "" if "<think>" in after else after.strip()


def tagged_answer(completion: str) -> str | None:
    """Returns the content of the last pair of answer tags; None without one."""
    found = _ANSWER.findall(completion)
    return found[-1] if found else None


def final_reply(completion: str) -> str:
    """Returns the content of the last ``<answer>`` tag or ``\\boxed{}`` after the thoughts, or the whole text after
    the thoughts if there is none.

    >>> final_reply("<think>2?</think> I see <answer>Yes.</answer>"), final_reply("So \\\\boxed{no}"), final_reply("B")
    ('Yes.', 'no', 'B')
    """
    reply = after_thoughts(completion)
    _, tag, content = reply.rpartition("<answer>")
    if tag:
        reply = content.partition("</answer>")[0]
    boxes = _BOX.findall(reply)
    return (boxes[-1] if boxes else reply).strip()
