"""Prompts that are chats: turns in the formats of OpenAI, TRL, verl, ms-swift and ShareGPT."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unigrpo.data.bad_samples import BadSample

ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}

CHAT_START = re.compile(r'\s*\[\s*\{\s*"')


@dataclass(frozen=True, kw_only=True)
class PromptChat:
    """A chat up to the user's last turn, which is the prompt."""

    turns: tuple[tuple[str, str], ...]
    """Role and content of each turn; the last is the user's."""
    answer: str | None
    """The assistant's turn after it, if the chat has one."""


def read_prompt_chat(value: object, where: str) -> PromptChat:
    """Returns the turns of a chat that ends in a question.

    Args:
        value: A list of ``{role, content}`` or ``{from, value}``. A content may be a list of parts, of which those
            with text are used here.
        where: File and line for errors.

    Raises:
        BadSample: It is not a chat, has an unknown role, no user's turn, or roles that do not alternate.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise BadSample("no chat", f"{where}: expected a list of {{role, content}}, found {value!r:.60}")
    turns = [_turn(turn, where) for turn in value]
    answer = turns.pop()[1] if turns[-1][0] == "assistant" else None
    roles = [role for role, _ in turns[turns[:1] != [] and turns[0][0] == "system" :]]
    if not roles or roles[-1] != "user" or roles != (["user", "assistant"] * len(roles))[: len(roles)]:
        found = [role for role, _ in turns][:8]
        raise BadSample(
            "turns out of order", f"{where}: expected user and assistant in turn, and the user last; found {found}"
        )
    return PromptChat(turns=tuple(turns), answer=answer)


def chat_in(value: object) -> object:
    """Returns the chat of a text that is one in JSON, as in OpenRLHF-M and in CSV files; any other value as it is.

    >>> chat_in('[{"role": "user", "content": "2+3?"}]'), chat_in("[1, 2] has how many numbers?")
    ([{'role': 'user', 'content': '2+3?'}], '[1, 2] has how many numbers?')
    """
    if not isinstance(value, str) or not CHAT_START.match(value):
        return value
    try:
        turns = json.loads(value)
    except (ValueError, RecursionError):
        return value
    is_chat = isinstance(turns, list) and all(isinstance(t, dict) and ("role" in t or "from" in t) for t in turns)
    return turns if is_chat else value


def _turn(turn: object, where: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise BadSample("no chat", f"{where}: expected turns like {{role, content}}, found {turn!r:.60}")
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise BadSample("unknown role", f"{where}: no role {role!r:.60}; expected one of {list(ROLES)}")
    content = turn.get("content", turn.get("value"))
    if isinstance(content, (list, tuple)):
        content = "\n".join(_part(part) for part in content if _part(part))
    if not isinstance(content, str):
        raise BadSample("no chat", f"{where}: expected text in each turn, found {content!r:.60}")
    return ROLES[role], content.strip()


def _part(part: object) -> str:
    """Returns the text of a part of a turn; empty for an image."""
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) else ""
