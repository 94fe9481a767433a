"""Chat templates: the tokenizer's own, and the two that LLaDA and MMaDA were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from unigrpo import DataError
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
        ValueError: The tokenizer lacks what it needs, or its template fails.
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
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of its own, and fails in its own ways
        raise DataError(
            f"the tokenizer's chat template fails on a prompt ({type(error).__name__}: {str(error)[:200]}); repair "
            "chat_template.jinja or tokenizer_config.json, or set data.prompt_template to one of "
            f"{', '.join(NEWLINES)}"
        ) from error


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
