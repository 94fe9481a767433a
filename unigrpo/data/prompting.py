"""Conversion of prompts to tokens, and of responses to text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from unigrpo import CheckpointError, DataError
from unigrpo.config import DataConfig
from unigrpo.data.bad_samples import BadSample
from unigrpo.data.chat import HEADER_TOKENS, chat_text, special_ids
from unigrpo.data.layouts import mmu_prompt, r2i_prompt, t2i_prompt
from unigrpo.data.text import checked
from unigrpo.models.tokenizer_panics import panics_named
from unigrpo.models.vocabulary import Vocabulary, token_id
from unigrpo.records import Prompt

PLACE = "{prompt}"
"""Placeholder of the prompt in an instruction; without it, the prompt follows the instruction."""
BATCH = 1024
"""Number of prompts whose texts are tokenized in one call."""


def encode_prompt(
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    data: DataConfig,
    image_codes: Int[Tensor, " N"] | None = None,
) -> Int[Tensor, " P"]:
    """Returns the tokens before a response.

    Those of `text`, `mmu` and `r2i` end with the assistant's header. Those of `t2i` are the caption without a
    template, with the instruction of ``data.instructions`` if there is one, and end with start-of-image.

    Args:
        prompt: A prompt of any task.
        tokenizer: A tokenizer that fits the template.
        vocabulary: Special ids.
        data: Templates and instructions.
        image_codes: Codes of the image of an `mmu` prompt, without the offset.

    Raises:
        ValueError: The tokenizer does not fit the template, the text contains the mask token, or the prompt has no
            image or one too many.
    """
    text = _whole_text(prompt, tokenizer, data, has_codes=image_codes is not None)
    with panics_named(tokenizer):
        ids = tokenizer.encode(text, add_special_tokens=False)
    return _row(prompt, ids, vocabulary, data, image_codes)


def prompt_lengths(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    data: DataConfig,
    image_codes: Int[Tensor, " N"],
) -> list[int | ValueError]:
    """Returns the number of tokens of each prompt as :func:`encode_prompt` encodes it, or the error that it raises.

    A prompt whose text spells a special token, which would end a turn, open another one or represent an image, has an
    error as well. Many texts are tokenized in one call, on all cores.

    Args:
        prompts: Prompts of any tasks.
        tokenizer: A tokenizer that fits the template.
        vocabulary: Special ids.
        data: Templates and instructions.
        image_codes: Any codes, as many as the image of an `mmu` prompt has.

    Raises:
        CheckpointError: The tokenizer's chat template takes too much time or memory.
    """
    special = special_ids(tokenizer)
    found: list[int | ValueError] = []
    for first in range(0, len(prompts), BATCH):
        found += _lengths(prompts[first : first + BATCH], tokenizer, vocabulary, data, image_codes, special)
    return found


def check_prompt_text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises an error for text that spells a special token, which would end or open a turn or represent an image.

    Raises:
        ValueError: A turn of the prompt contains one; the message names it.
    """
    special = special_ids(tokenizer)
    for ids in _tokenized(_user_texts(prompt), tokenizer):
        _refuse(special.intersection(ids), prompt, tokenizer)


def _lengths(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    data: DataConfig,
    image_codes: Int[Tensor, " N"],
    special: set[int],
) -> list[int | ValueError]:
    """Returns what :func:`prompt_lengths` does, for one batch.

    Args:
        prompts: The batch.
        tokenizer: A tokenizer that fits the template.
        vocabulary: Special ids.
        data: Templates and instructions.
        image_codes: Codes of an image.
        special: Ids that no text may spell.
    """
    found: list[int | ValueError] = [0] * len(prompts)
    wholes: dict[int, str] = {}
    for place, prompt in enumerate(prompts):
        try:
            wholes[place] = _whole_text(prompt, tokenizer, data, has_codes=prompt.task == "mmu")
        except CheckpointError:  # a chat template that exceeds a limit, which may hold for all prompts
            raise
        except ValueError as error:
            found[place] = error
    turns = [(place, text) for place in wholes for text in _user_texts(prompts[place])]
    spelt: dict[int, set[int]] = {place: set() for place in wholes}
    for (place, _), ids in zip(turns, _tokenized([text for _, text in turns], tokenizer), strict=True):
        spelt[place].update(special.intersection(ids))
    for (place, _), ids in zip(wholes.items(), _tokenized([*wholes.values()], tokenizer), strict=True):
        codes = image_codes if prompts[place].task == "mmu" else None
        try:
            _refuse(spelt[place], prompts[place], tokenizer)
            found[place] = len(_row(prompts[place], ids, vocabulary, data, codes))
        except ValueError as error:
            found[place] = error
    return found


def _tokenized(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    with panics_named(tokenizer):
        encoded: Any = tokenizer(texts, add_special_tokens=False) if texts else {"input_ids": []}
    return encoded["input_ids"]


def _user_texts(prompt: Prompt) -> list[str]:
    """Returns the texts of all turns of a prompt."""
    return [prompt.text, *(message["content"] for message in prompt.messages[:-1])]


def _refuse(found: Collection[int], prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises DataError if special tokens were found in the text of a prompt."""
    if found:
        names = sorted(str(name) for name in tokenizer.convert_ids_to_tokens(sorted(found)))
        raise DataError(f"{prompt.id}: the text holds the special tokens {names}; remove them")


def _whole_text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, data: DataConfig, *, has_codes: bool) -> str:
    """Returns the text of a prompt with its instruction and template, without the tokens of its task.

    Raises:
        DataError: The tokenizer does not fit the template, or an image is missing or not wanted.
    """
    if (prompt.task == "mmu") != has_codes:
        given = "image codes were" if has_codes else "no image codes were"
        raise DataError(f"{prompt.id}: {given} given for task {prompt.task!r}; mmu needs them, and no other task")
    try:
        checked(prompt.text, prompt.id)
    except BadSample as error:  # text of a page or a command line, which no reader of tables has checked
        raise DataError(str(error)) from error
    is_caption = prompt.task == "t2i"
    of_file = None if is_caption else prompt.instruction
    instruction = data.instruction_of(prompt.task) if of_file is None else of_file
    text = instruction.replace(PLACE, prompt.text) if PLACE in instruction else instruction + prompt.text
    template = _template(prompt, data)
    earlier = prompt.messages[:-1]
    if earlier and template in ("", "plain"):
        why = "task 't2i' takes one caption" if is_caption else "the template plain has no turns"
        raise DataError(f"{prompt.id}: {len(earlier)} turns come before the question, but {why}")
    if is_caption:
        return text
    if template != "plain":
        text = chat_text(text, tokenizer, template, earlier)
    return text + prompt.response_start


def _template(prompt: Prompt, data: DataConfig) -> str:
    """Returns the template of a prompt; empty for a caption, which has none."""
    return "" if prompt.task == "t2i" else prompt.template or data.template_of(prompt.task)


def _row(
    prompt: Prompt,
    ids: list[int],
    vocabulary: Vocabulary,
    data: DataConfig,
    image_codes: Int[Tensor, " N"] | None,
) -> Int[Tensor, " P"]:
    """Puts the tokens of a task around those of a prompt's whole text. Raises DataError if a mask token is in it."""
    if vocabulary.mask_id in ids:
        raise DataError(f"{prompt.id}: the text contains the mask token, which would be sampled over; remove it")
    if _template(prompt, data) == "plain":
        ids = [vocabulary.begin_of_text_id, *ids]
    if prompt.task == "t2i":
        return t2i_prompt(ids, vocabulary)
    if prompt.task == "r2i":
        return r2i_prompt(ids, vocabulary)
    return torch.tensor(ids) if image_codes is None else mmu_prompt(image_codes, ids, vocabulary)


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
        keep_end_of_turn: Whether to cut only at the first end-of-text, so that the text shows how the turn ended.
    """
    ends: list[Any] = [vocabulary.end_of_text_id]
    if not keep_end_of_turn:  # a tokenizer that lacks one of them has None
        ends += [tokenizer.eos_token_id, tokenizer.pad_token_id, token_id(tokenizer, HEADER_TOKENS[2])]
    response = token_ids[response_mask].tolist()
    length = next((n for n, token in enumerate(response) if token in ends), len(response))
    with panics_named(tokenizer):
        return str(tokenizer.decode(response[:length], skip_special_tokens=False, clean_up_tokenization_spaces=False))
