"""The order of the tokens of each task: padded rows to train on, and unpadded prompts to generate from.

S is the number of text tokens, N the number of image tokens. A training row of any task has S + N + 3 tokens:

- `t2i`: padding, task token, begin-of-text, text, end-of-text | start-of-image, N codes, end-of-image
- `lm`: begin-of-text, text, end-of-text, end-of-text ...
- `mmu`: task token, start-of-image, N codes, end-of-image | begin-of-text, text, end-of-text ...
- `r2i`: task token | begin-of-text, text, end-of-text ... | start-of-image, N codes, end-of-image

Text that already starts with begin-of-text does not get a second one. Prompts are the same rows up to what is to be
generated, without padding; the samplers pad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unigrpo.models.vocabulary import Vocabulary

IGNORED = -100
"""Label of a token that is not a target."""


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """One row of a task, before text noise."""

    token_ids: Int[Tensor, " L"]
    token_mask: Bool[Tensor, " L"]
    """False on the padding of `t2i`. End-of-text that fills up the other rows is part of the text and trained.

    The published checkpoints saw the `t2i` padding in training, because their attention ignored the mask.
    """
    prompt_mask: Bool[Tensor, " L"]
    """True on tokens that noise must not mask."""
    labels: Int[Tensor, " L"]
    """The clean token, or :data:`IGNORED`."""


def drop_condition(text_ids: Sequence[int], uniform: float, probability: float) -> Sequence[int]:
    """Returns the caption, or with ``probability`` an empty one, which trains the unconditional branch of guidance.

    Args:
        text_ids: Tokens of the caption.
        uniform: Uniform random number in [0, 1), one for each row.
        probability: MMaDA uses 0.1, for `t2i` only.
    """
    return [] if uniform < probability else text_ids


def t2i_row(
    text_ids: Sequence[int],
    image_codes: Int[Tensor, " N"],
    is_masked: Bool[Tensor, " N"],
    vocabulary: Vocabulary,
    *,
    max_text_tokens: int,
) -> TrainingRow:
    """Returns a caption and its partly masked image.

    The labels are those of the text, of the masked codes and of the two tokens around the image. The original's loss
    leaves out the text, and counts the two visible tokens.

    Args:
        text_ids: The caption; [] is the unconditional prompt. Text that does not fit is cut before end-of-text.
        image_codes: Clean codes, without the offset.
        is_masked: Codes to mask.
        vocabulary: Special ids.
        max_text_tokens: S; the task token is not counted in it.

    Raises:
        ValueError: A code is outside the codebook.
    """
    image = vocabulary.image_ids(image_codes)
    row = _t2i(text_ids, image.masked_fill(is_masked, vocabulary.mask_id), vocabulary, max_text_tokens)
    is_real = row != vocabulary.image_pad_id
    position = torch.arange(len(row))
    is_image = (position >= max_text_tokens + 2) & (position < len(row) - 1)
    labels = row.masked_fill(~is_real, IGNORED)
    labels[is_image] = image.masked_fill(~is_masked, IGNORED)
    return TrainingRow(token_ids=row, token_mask=is_real, prompt_mask=~is_image, labels=labels)


def lm_row(text_ids: Sequence[int], vocabulary: Vocabulary, *, num_tokens: int) -> TrainingRow:
    """Returns plain text, padded with end-of-text; text that is too long is cut and has no end-of-text.

    Args:
        text_ids: The text.
        vocabulary: Special ids.
        num_tokens: Length of the row.
    """
    row = _fill([*_with_begin(text_ids, vocabulary), vocabulary.end_of_text_id], num_tokens, vocabulary)
    return _text_row(row, torch.zeros(num_tokens, dtype=torch.bool))


def lm_chat_row(text_ids: Sequence[int], vocabulary: Vocabulary, *, num_tokens: int) -> TrainingRow:
    """Returns a chat as :func:`lm_row`, of which the last turn is the target.

    The prompt ends after the last end-of-header token that was not cut off; without one there is no prompt.
    """
    row = lm_row(text_ids, vocabulary, num_tokens=num_tokens).token_ids
    return _text_row(row, torch.arange(num_tokens) < _last_header_end(row, vocabulary))


def mmu_row(
    image_codes: Int[Tensor, " N"], text_ids: Sequence[int], vocabulary: Vocabulary, *, max_text_tokens: int
) -> TrainingRow:
    """Returns an image and a chat about it, whose last turn is the target; without a header all of the text is the
    target.

    Args:
        image_codes: Without the offset.
        text_ids: Question and answer. What does not fit is cut before end-of-text.
        vocabulary: Special ids.
        max_text_tokens: S.

    Raises:
        ValueError: A code is outside the codebook.
    """
    prefix = _mmu_prefix(image_codes, vocabulary)
    text = _closed_text(text_ids, vocabulary, max_text_tokens)
    row = torch.cat([prefix, text])
    position = torch.arange(len(row))
    return TrainingRow(
        token_ids=row,
        token_mask=torch.ones(len(row), dtype=torch.bool),
        prompt_mask=position < len(prefix) + _last_header_end(text, vocabulary),
        labels=row.masked_fill(position < len(prefix), IGNORED),
    )


def r2i_row(
    text_ids: Sequence[int], image_codes: Int[Tensor, " N"], vocabulary: Vocabulary, *, max_text_tokens: int
) -> TrainingRow:
    """Returns a chat with thoughts in its last turn, and the image that they describe; both are targets.

    Args:
        text_ids: Request and thoughts; without a header all of it is prompt. What does not fit is cut before
            end-of-text.
        image_codes: Without the offset.
        vocabulary: Special ids.
        max_text_tokens: S.

    Raises:
        ValueError: A code is outside the codebook.
    """
    text = _closed_text(text_ids, vocabulary, max_text_tokens)
    image = vocabulary.image_ids(image_codes)
    text_prompt = torch.arange(len(text)) < (_last_header_end(text, vocabulary) or len(text))
    always = torch.tensor([True])
    return _text_row(
        torch.cat([_ids(vocabulary.r2i_id), text, _ids(vocabulary.soi_id), image, _ids(vocabulary.eoi_id)]),
        torch.cat([always, text_prompt, always, torch.zeros(len(image), dtype=torch.bool), always]),
    )


def t2i_prompt(text_ids: Sequence[int], vocabulary: Vocabulary) -> Int[Tensor, " P"]:
    """Returns the tokens before a generated image: task token to start-of-image; end-of-image follows the image.

    Args:
        text_ids: The caption.
        vocabulary: Special ids.
    """
    text = [*_with_begin(text_ids, vocabulary), vocabulary.end_of_text_id]
    return _ids(vocabulary.t2i_id, *text, vocabulary.soi_id)


def t2i_unconditional_prompt(vocabulary: Vocabulary) -> Int[Tensor, " P"]:
    """Returns the unconditional prompt of guidance: that of an empty caption, as training drops captions."""
    return t2i_prompt([], vocabulary)


def mmu_prompt(
    image_codes: Int[Tensor, " N"],
    text_ids: Sequence[int],
    vocabulary: Vocabulary,
) -> Int[Tensor, " P"]:
    """Returns the tokens before an answer about an image.

    Args:
        image_codes: Without the offset.
        text_ids: The question in its chat template, up to the assistant's header.
        vocabulary: Special ids.

    Raises:
        ValueError: A code is outside the codebook.
    """
    return torch.cat([_mmu_prefix(image_codes, vocabulary), _ids(*_with_begin(text_ids, vocabulary))])


def r2i_prompt(text_ids: Sequence[int], vocabulary: Vocabulary) -> Int[Tensor, " P"]:
    """Returns the tokens before thoughts that an image follows: in training S text tokens, start-of-image, N codes,
    and end-of-image.

    Args:
        text_ids: The request in its chat template, up to the assistant's header.
        vocabulary: Special ids.
    """
    return _ids(vocabulary.r2i_id, *_with_begin(text_ids, vocabulary))


def _t2i(text_ids: Sequence[int], image: Tensor, vocabulary: Vocabulary, max_text_tokens: int) -> Tensor:
    text = [vocabulary.t2i_id, *_with_begin(text_ids, vocabulary), vocabulary.end_of_text_id]
    if len(text) > max_text_tokens + 1:
        text = [*text[:max_text_tokens], vocabulary.end_of_text_id]
    padding = [vocabulary.image_pad_id] * (max_text_tokens + 1 - len(text))
    return torch.cat([_ids(*padding, *text, vocabulary.soi_id), image, _ids(vocabulary.eoi_id)])


def _mmu_prefix(codes: Tensor, vocabulary: Vocabulary) -> Tensor:
    image = vocabulary.image_ids(codes)
    return torch.cat([_ids(vocabulary.mmu_id, vocabulary.soi_id), image, _ids(vocabulary.eoi_id)])


def _with_begin(text_ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    has_one = len(text_ids) > 0 and text_ids[0] == vocabulary.begin_of_text_id
    return [*([] if has_one else [vocabulary.begin_of_text_id]), *text_ids]


def _closed_text(text_ids: Sequence[int], vocabulary: Vocabulary, max_text_tokens: int) -> Tensor:
    """Returns text of exactly S tokens, the last of which is end-of-text."""
    text = _with_begin(text_ids, vocabulary)[: max_text_tokens - 1]
    return _fill([*text, vocabulary.end_of_text_id], max_text_tokens, vocabulary)


def _fill(text: list[int], num_tokens: int, vocabulary: Vocabulary) -> Tensor:
    """Returns text that is cut or padded with end-of-text."""
    return _ids(*text[:num_tokens], *[vocabulary.end_of_text_id] * (num_tokens - len(text)))


def _last_header_end(text: Tensor, vocabulary: Vocabulary) -> int:
    """Returns the number of tokens up to and including the last end-of-header; 0 if there is none."""
    if vocabulary.end_header_id is None:
        return 0
    found = (text == vocabulary.end_header_id).nonzero()
    return int(found[-1]) + 1 if len(found) else 0


def _text_row(row: Tensor, prompt_mask: Tensor) -> TrainingRow:
    """Returns a row without padding in which every token is a label."""
    everything = torch.ones(len(row), dtype=torch.bool)
    return TrainingRow(token_ids=row, token_mask=everything, prompt_mask=prompt_mask, labels=row.clone())


def _ids(*ids: int) -> Tensor:
    return torch.tensor(ids, dtype=torch.long)
