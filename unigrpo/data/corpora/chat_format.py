"""Chats of training data: messages from the formats of data sets, and the text that is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from unigrpo import DataError
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.chat import HEADER_TOKENS, NEWLINES, chat_variant, missing_headers, turn_parts
from unigrpo.data.corpora.sample import Messages
from unigrpo.data.prompt_chats import ROLES

HEADER = re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>")
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
ENDS_OF_TURN = ("<|eot_id|>", "<eot_id>")
"""The end-of-turn token, and the plain text that MMaDA's training code wrote in its place. Both are read alike."""
IMAGE_MARK = "<image>"
"""Position of the image in LLaVA's texts; the layout has its own place for it."""
Segment = tuple[str, bool]
"""A piece of text, and whether it is a target. Pieces may be tokenized one by one."""


def read_messages(turns: object, where: str) -> Messages:
    """Returns the turns of a chat, in any of the formats of data sets, without what follows the last answer.

    Args:
        turns: A list of {role, content} or {from, value}, or one text with headers.
        where: File and line for errors.

    Raises:
        BadSample: No answer, roles that do not alternate, or a turn that is not text or contains an end of turn.
    """
    pairs = _from_text(turns, where) if isinstance(turns, str) else _from_list(turns, where)
    without_mark = ((role, content.replace(IMAGE_MARK, "") if role == "user" else content) for role, content in pairs)
    messages = tuple((role, _clean(content)) for role, content in without_mark)
    while messages and (messages[-1][0] != "assistant" or not messages[-1][1]):
        messages = messages[:-1]
    if not messages:
        raise BadSample("no answer", f"{where}: no assistant's turn with a text")
    spoken = [role for role, _ in messages[messages[0][0] == "system" :]]
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise BadSample("turns out of order", f"{where}: expected user and assistant in turn, found {spoken[:6]}")
    for role, content in messages:
        wrong = [mark for mark in (*ENDS_OF_TURN, *HEADER_TOKENS) if mark in content]
        if wrong or not content:
            raise BadSample("broken turn", f"{where}: turn of {role} is empty or holds {wrong}: {content[:60]!r}")
    return messages


def leading_turns(messages: Messages, num_answers: int) -> Messages:
    """Returns the messages up to and including this number of answers."""
    ends = [i + 1 for i, (role, _) in enumerate(messages) if role == "assistant"]
    return messages[: ends[num_answers - 1]]


def with_instruction(messages: Messages, instruction: str) -> Messages:
    """Returns the messages with a text before the first request."""
    first = next(i for i, (role, _) in enumerate(messages) if role == "user")
    return (*messages[:first], ("user", instruction + messages[first][1]), *messages[first + 1 :])


def template_newlines(tokenizer: PreTrainedTokenizerBase, template: str) -> str | None:
    """Returns the text after each header; None without headers.

    Args:
        tokenizer: A tokenizer that fits the template.
        template: A choice of `data.prompt_template`: `chat`, `plain` or a key of NEWLINES.

    Raises:
        ValueError: The tokenizer lacks what the template needs.
    """
    if template == "plain":
        return None
    variant = chat_variant(tokenizer) if template == "chat" else template
    if variant not in NEWLINES or missing_headers(tokenizer):
        raise DataError(
            f"template {template!r} needs {', '.join(HEADER_TOKENS)} in the tokenizer, and chat in its own "
            f"template; choose one of {['chat', 'plain', *NEWLINES]}"
        )
    return NEWLINES[variant]


def render_segments(messages: Messages, newlines: str | None, *, every_turn: bool = False) -> list[Segment]:
    """Returns a chat to train on, as pieces of text without begin-of-text and without an empty header at its end.

    A tokenizer's own template often ends in the header of the next answer, whether or not one is wanted. Trained on,
    it would be the last header, and the answer before it would not be a target.

    Args:
        messages: Messages, of which the last is the assistant's.
        newlines: Result of :func:`template_newlines`. Targets start after the header and its newlines, as in the
            layouts.
        every_turn: Whether all of the assistant's turns are targets, and not only the last.

    Raises:
        BadSample: The template is plain, and there is more than one request and answer.
    """
    if newlines is None:
        if [role for role, _ in messages] != ["user", "assistant"]:
            raise BadSample("too many turns", "the template plain has room for one request and one answer")
        return [(messages[0][1], False), (messages[1][1], True)]
    segments: list[Segment] = []
    for number, (role, content) in enumerate(messages):
        is_target = role == "assistant" and (every_turn or number == len(messages) - 1)
        head, text = turn_parts(role, content, newlines)
        segments += [(head, False), (text, is_target)]
    return segments


def _from_text(text: str, where: str) -> list[tuple[str, str]]:
    parts = HEADER.split(text)
    if len(parts) < 3 or _clean(parts[0]):
        raise BadSample("no headers", f"{where}: expected a text that starts with the header of a role: {text[:60]!r}")
    return [(_role(role, where), content) for role, content in zip(parts[1::2], parts[2::2], strict=True)]


def _from_list(turns: object, where: str) -> list[tuple[str, str]]:
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadSample("no messages", f"{where}: expected a list of {{role, content}}, found {turns!r:.60}")
    return [(_role(_value(turn, "role", "from"), where), _text(turn, where)) for turn in turns]


def _role(role: object, where: str) -> str:
    if role not in ROLES:
        raise BadSample("unknown role", f"{where}: no role {role!r}; expected one of {list(ROLES)}")
    return ROLES[str(role)]


def _text(turn: Mapping[str, Any], where: str) -> str:
    content = _value(turn, "content", "value")
    if not isinstance(content, str):
        raise BadSample("no messages", f"{where}: expected text in each turn, found {content!r:.60}")
    return content


def _value(turn: Mapping[str, Any], *names: str) -> object:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _clean(content: str) -> str:
    """Returns a turn without white space and tokens around it."""
    content = content.strip()
    while True:
        before = content
        for mark in (BEGIN, END, *ENDS_OF_TURN):
            content = content.removeprefix(mark).removesuffix(mark).strip()
        if content == before:
            return content
