"""Chat templates: that of the tokenizer, and the two with which LLaDA and MMaDA were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from unigrpo import CheckpointError, DataError
from unigrpo.data.chat_templates.process import TEMPLATE_PROCESS
from unigrpo.models.vocabulary import token_id

NEWLINES = {"chat_one_newline": "\n", "chat_two_newlines": "\n\n"}
"""Text after every header: one newline in MMaDA's prompts, two in the template of LLaDA's tokenizer.

Models answer worse in a format with which they were not trained, and some MMaDA folders ship LLaDA's tokenizer.
"""
HEADER_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Returns the ids that a user's text must not spell: special tokens, and those around the turns of a chat."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    headers = {found for token in HEADER_TOKENS if (found := token_id(tokenizer, token)) is not None}
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special), *headers}


def missing_headers(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns those of :data:`HEADER_TOKENS` that a tokenizer does not have."""
    return sorted(token for token in HEADER_TOKENS if token_id(tokenizer, token) is None)


def chat_text(
    text: str, tokenizer: PreTrainedTokenizerBase, template: str, earlier: Sequence[Mapping[str, str]] = ()
) -> str:
    """Returns a user's turn and the assistant's header as text, special tokens included.

    Args:
        text: Text of the user.
        tokenizer: Tokenizer with a chat template, or for the other formats with the header tokens.
        template: `chat` for the tokenizer's own template, or a key of :data:`NEWLINES`.
        earlier: Messages before the user's turn, with ``role`` and ``content``.

    Raises:
        ValueError: The tokenizer lacks a template or a token, or its template fails.
    """
    messages = [*({"role": turn["role"], "content": turn["content"]} for turn in earlier)]
    messages.append({"role": "user", "content": text})
    if template in NEWLINES:
        return _published(messages, tokenizer, template)
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer has no chat template; add one to it, or set data.prompt_template plain, or one of "
            f"{', '.join(NEWLINES)}"
        )
    return render(tokenizer, messages)


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True
) -> str:
    """Returns messages as text in the tokenizer's own chat template, as its ``apply_chat_template`` does.

    The template is a program in the checkpoint. It runs in a process with limits of time and memory.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: Messages with ``role`` and ``content``.
        add_generation_prompt: Whether the template adds the header of the assistant at the end.

    Raises:
        DataError: The template fails on these messages.
        CheckpointError: The template takes too much time or memory, or its result is too long.
    """
    values = {**tokenizer.special_tokens_map, "add_generation_prompt": add_generation_prompt}
    advice = f"repair it, or set data.prompt_template to one of {', '.join(NEWLINES)}"
    try:
        return TEMPLATE_PROCESS.render(tokenizer.get_chat_template(), messages, values)
    except CheckpointError as error:
        raise CheckpointError(
            f"{_template_file(tokenizer)}: the chat template was stopped: {error}; {advice}"
        ) from error
    except ValueError as error:  # also of transformers, where it has several templates and none is the default
        reason = " ".join(str(error).split())
        raise DataError(
            f"{_template_file(tokenizer)}: the chat template fails on a prompt ({reason[:300]}); {advice}"
        ) from error


def _template_file(tokenizer: PreTrainedTokenizerBase) -> Path:
    """Returns the file in which the chat template of a tokenizer is expected."""
    folder = Path(tokenizer.name_or_path)
    own = folder / "chat_template.jinja"
    return own if own.is_file() else folder / "tokenizer_config.json"


def header(role: str) -> str:
    """Returns the header of a turn."""
    return f"{HEADER_TOKENS[0]}{role}{HEADER_TOKENS[1]}"


def turn_parts(role: str, content: str, newlines: str) -> tuple[str, str]:
    """Returns the header of a turn, and its text with the newlines before it and the end-of-turn token."""
    return header(role), f"{newlines}{content.strip()}{HEADER_TOKENS[2]}"


def chat_variant(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Returns the key of :data:`NEWLINES` that equals the tokenizer's own template; None if none does."""
    if tokenizer.chat_template and not missing_headers(tokenizer):
        own = chat_text("a", tokenizer, "chat")
        for name in NEWLINES:
            if own == _published([{"role": "user", "content": "a"}], tokenizer, name):
                return name
    return None


def _published(messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    missing = missing_headers(tokenizer)
    if missing:
        raise DataError(
            f"data.prompt_template is {template}, but the tokenizer has no {', '.join(missing)}; use chat or plain"
        )
    newlines = NEWLINES[template]
    turns = ("".join(turn_parts(m["role"], m["content"], newlines)) for m in messages)
    return f"{tokenizer.bos_token}{''.join(turns)}{header('assistant')}{newlines}"
