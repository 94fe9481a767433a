"""Task layouts: where prompt, image and response stand in a row of tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unigrpo.config import DataConfig
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.records import Prompt


def encode_prompt(
    prompt: Prompt, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, data: DataConfig
) -> Int[Tensor, " P"]:
    """The tokens before a text response, from begin-of-text to the assistant's header.

    Args:
        prompt: A text prompt.
        tokenizer: With a chat template, if ``data.prompt_template`` is `chat`.
        vocabulary: Gives begin-of-text.
        data: Template and instruction.

    Raises:
        ValueError: The tokenizer has no chat template, or the text contains the mask token.
    """
    text = data.instruction + prompt.text
    if data.prompt_template == "plain":
        ids = [vocabulary.begin_of_text_id, *tokenizer.encode(text, add_special_tokens=False)]
    else:
        ids = tokenizer.encode(_chat(text, tokenizer), add_special_tokens=False)
    if vocabulary.mask_id in ids:
        raise ValueError(f"{prompt.id}: the text contains the mask token, which would be sampled over; remove it")
    return torch.tensor(ids)


def _chat(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; add one to it, or set data.prompt_template plain")
    messages = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def decode_completion(
    token_ids: Int[Tensor, " L"],
    response_mask: Bool[Tensor, " L"],
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
) -> str:
    """The response as text: cut at the first end-of-text, other special tokens kept."""
    response = token_ids[response_mask].tolist()
    if vocabulary.end_of_text_id in response:
        response = response[: response.index(vocabulary.end_of_text_id)]
    return str(tokenizer.decode(response, skip_special_tokens=False, clean_up_tokenization_spaces=False))
