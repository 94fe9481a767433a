"""Conversion of prompts to tokens, and of responses to text."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unigrpo import DataError
from unigrpo.config import DataConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.chat import HEADER_TOKENS, chat_text, special_ids
from unigrpo.data.layouts import mmu_prompt, r2i_prompt, t2i_prompt
from unigrpo.data.text import checked
from unigrpo.models.vocabulary import Vocabulary, token_id
from unigrpo.records import Prompt

PLACE = "{prompt}"
"""Place of the prompt in an instruction; without it, the prompt follows the instruction."""


def encode_prompt(
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    data: DataConfig,
    image_codes: Int[Tensor, " N"] | None = None,
) -> Int[Tensor, " P"]:
    """Returns the tokens before a response.

    `text`, `mmu` and `r2i` end with the assistant's header; `t2i` takes the caption without a template, with an
    instruction only if ``data.instructions`` has one for it, and ends with start-of-image.

    Args:
        prompt: A prompt of any task.
        tokenizer: A tokenizer that fits the template.
        vocabulary: Special ids.
        data: Templates and instructions.
        image_codes: Codes of the image of an `mmu` prompt, without the offset.

    Raises:
        ValueError: The tokenizer does not fit the template, the text contains the mask token, or an image is missing
            or not wanted.
    """
    if (prompt.task == "mmu") != (image_codes is not None):
        found = "no image codes were" if image_codes is None else "image codes were"
        raise DataError(f"{prompt.id}: {found} given for task {prompt.task!r}; mmu needs them, and no other task")
    try:
        checked(prompt.text, prompt.id)
    except BadSample as error:  # text of a page or a command line, which no reader of tables has checked
        raise DataError(str(error)) from error
    is_caption = prompt.task == "t2i"
    of_file = None if is_caption else prompt.instruction
    instruction = data.instruction_of(prompt.task) if of_file is None else of_file
    text = instruction.replace(PLACE, prompt.text) if PLACE in instruction else instruction + prompt.text
    template = prompt.template or data.template_of(prompt.task)
    earlier = prompt.messages[:-1]
    if earlier and (is_caption or template == "plain"):
        why = "task 't2i' takes one caption" if is_caption else "the template plain has no turns"
        raise DataError(f"{prompt.id}: {len(earlier)} turns come before the question, but {why}")
    if is_caption:
        ids = tokenizer.encode(text, add_special_tokens=False)
    elif template == "plain":
        whole = text + prompt.response_start
        ids = [vocabulary.begin_of_text_id, *tokenizer.encode(whole, add_special_tokens=False)]
    else:
        whole = chat_text(text, tokenizer, template, earlier) + prompt.response_start
        ids = tokenizer.encode(whole, add_special_tokens=False)
    if vocabulary.mask_id in ids:
        raise DataError(f"{prompt.id}: the text contains the mask token, which would be sampled over; remove it")
    if is_caption:
        return t2i_prompt(ids, vocabulary)
    if prompt.task == "r2i":
        return r2i_prompt(ids, vocabulary)
    return torch.tensor(ids) if image_codes is None else mmu_prompt(image_codes, ids, vocabulary)


def check_prompt_text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuses text that spells a special token, which would end a turn, open another one or represent an image.

    Raises:
        ValueError: A turn of the prompt contains one; the message names it.
    """
    special = special_ids(tokenizer)
    for text in (prompt.text, *(message["content"] for message in prompt.messages[:-1])):
        found = special.intersection(tokenizer.encode(text, add_special_tokens=False))
        if found:
            names = sorted(str(name) for name in tokenizer.convert_ids_to_tokens(sorted(found)))
            raise DataError(f"{prompt.id}: the text holds the special tokens {names}; remove them")


def decode_completion(
    token_ids: Int[Tensor, " L"],
    response_mask: Bool[Tensor, " L"],
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    *,
    keep_end_of_turn: bool = False,
) -> str:
    """Returns the response as text, cut at the first token that ends the response or the assistant's turn.

    Other special tokens, such as a mask that is left, are kept.

    Args:
        token_ids: The whole row.
        response_mask: True on the tokens of the response.
        tokenizer: The tokenizer of the policy.
        vocabulary: The special ids of the policy.
        keep_end_of_turn: Cut at the first end-of-text only, so that the text shows how the turn ended.
    """
    ends: list[Any] = [vocabulary.end_of_text_id]
    if not keep_end_of_turn:  # a tokenizer that lacks one of them has None
        ends += [tokenizer.eos_token_id, tokenizer.pad_token_id, token_id(tokenizer, HEADER_TOKENS[2])]
    response = token_ids[response_mask].tolist()
    length = next((n for n, token in enumerate(response) if token in ends), len(response))
    return str(tokenizer.decode(response[:length], skip_special_tokens=False, clean_up_tokenization_spaces=False))
