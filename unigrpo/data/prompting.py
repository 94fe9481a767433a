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
    """
    text = data.instruction + prompt.text
    if data.prompt_template == "plain":
        return torch.tensor([vocabulary.begin_of_text_id, *tokenizer.encode(text, add_special_tokens=False)])
    messages = [{"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return torch.tensor(tokenizer.encode(str(rendered), add_special_tokens=False))


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
