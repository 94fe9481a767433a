"""The part of a response that answers the user: what follows the thoughts."""

from __future__ import annotations

import re

_BOX = re.compile(r"\\boxed\{([^{}]*)\}")


def after_thoughts(completion: str) -> str:
    """Returns the text of a response after its thoughts, or nothing if they do not end.

    >>> after_thoughts("<think>A dog?</think> A brown dog."), after_thoughts("<think>A dog"), after_thoughts("A dog")
    ('A brown dog.', '', 'A dog')
    """
    after = completion.rpartition("</think>")[2]
    return "" if "<think>" in after else after.strip()


def final_reply(completion: str) -> str:
    """Returns what follows the thoughts; of this, the content of the last ``<answer>`` tag or else of the last
    ``\\boxed{}``, if there is one.

    >>> final_reply("<think>2?</think> I see <answer>Yes.</answer>"), final_reply("So \\\\boxed{no}"), final_reply("B")
    ('Yes.', 'no', 'B')
    """
    reply = after_thoughts(completion)
    _, tag, content = reply.rpartition("<answer>")
    if tag:
        reply = content.partition("</answer>")[0]
    boxes = _BOX.findall(reply)
    return (boxes[-1] if boxes else reply).strip()
