"""Chat templates: the tokenizer's own, and the two that LLaDA and MMaDA were trained with."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

NEWLINES = {"chat_one_newline": "\n", "chat_two_newlines": "\n\n"}
"""What stands behind every header: one newline in MMaDA's prompts, two in the template of LLaDA's tokenizer.

Models answer worse in the form that they were not trained with, and some MMaDA folders ship LLaDA's tokenizer.
"""
HEADER_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def chat_text(text: str, tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """A user's turn and the assistant's header as text, special tokens included.

    Args:
        text: What the user says.
        tokenizer: Has a chat template, or for the other forms the header tokens.
        template: `chat` for the tokenizer's own template, or a key of :data:`NEWLINES`.

    Raises:
        ValueError: The tokenizer lacks what it needs.
    """
    if template in NEWLINES:
        return _published(text, tokenizer, template)
    if not tokenizer.chat_template:
        raise ValueError(
            "the tokenizer has no chat template; add one to it, or set data.prompt_template plain, or one of "
            f"{', '.join(NEWLINES)}"
        )
    messages = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def chat_variant(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Which key of :data:`NEWLINES` says the same as the tokenizer's own template; None if none does."""
    vocabulary = tokenizer.get_vocab()
    if tokenizer.chat_template and all(token in vocabulary for token in HEADER_TOKENS):
        own = chat_text("a", tokenizer, "chat")
        for name in NEWLINES:
            if own == _published("a", tokenizer, name):
                return name
    return None


def _published(text: str, tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    missing = sorted(set(HEADER_TOKENS) - tokenizer.get_vocab().keys())
    if missing:
        raise ValueError(
            f"data.prompt_template is {template}, but the tokenizer has no {', '.join(missing)}; use chat or plain"
        )
    start, end, end_of_turn = HEADER_TOKENS
    newlines = NEWLINES[template]
    turn = f"{start}user{end}{newlines}{text.strip()}{end_of_turn}"
    return f"{tokenizer.bos_token}{turn}{start}assistant{end}{newlines}"
