"""Special token ids and the ids of the image codes. No other file contains token ids."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from unigrpo import CheckpointError

PUBLISHED_IDS = {
    "begin_of_text": 126080,
    "end_of_text": 126081,
    "soi": 126084,
    "eoi": 126085,
    "t2i": 126088,
    "mmu": 126089,
    "image_pad": 126093,
    "r2i": 126094,
    "mask": 126336,
}
"""Ids in LLaDA's tokenizer that MMaDA uses for special purposes; most are reserved tokens without a name."""
PUBLISHED_TOKENIZER_LENGTH = 126349
"""Id of the first image code: the length of the tokenizer, and not that of the padded vocabulary, 126464."""
PUBLISHED_CODEBOOK_SIZE = 8192
NO_TOKEN = -1
"""Id of a token for images in a text-only checkpoint that has no such token."""
TOKEN_NAMES = {"begin_of_text": "<|startoftext|>", "end_of_text": "<|endoftext|>", "mask": "<|mdm_mask|>"}
"""Tokens whose ids show whether a tokenizer belongs to another checkpoint."""
END_HEADER = "<|end_header_id|>"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The special ids of a checkpoint."""

    mask_id: int
    begin_of_text_id: int
    end_of_text_id: int
    """Token that ends and pads a response."""
    image_pad_id: int
    """Token that pads the text of text-to-image rows on the left."""
    soi_id: int
    eoi_id: int
    t2i_id: int
    mmu_id: int
    r2i_id: int
    end_header_id: int | None
    """Token that ends the role of a chat turn; None if the tokenizer has no such token."""
    image_offset: int
    """Id of image code 0."""
    codebook_size: int
    """Number of image codes; 0 for a text-only checkpoint."""

    @property
    def image_slice(self) -> tuple[int, int]:
        """First and one-past-last id of the image codes."""
        return self.image_offset, self.image_offset + self.codebook_size

    def image_ids(self, codes: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Returns the token ids of image codes.

        Raises:
            ValueError: A code is outside the codebook.
        """
        _check_range("codes", codes, 0, self.codebook_size, "give the image tokenizer's codes, without the offset")
        return codes.long() + self.image_offset

    def image_codes(self, token_ids: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Returns the image codes of token ids.

        Raises:
            ValueError: A token is not an image code, for example a mask token that was never replaced.
        """
        _check_range("tokens", token_ids, *self.image_slice, "only a finished image has codes")
        return token_ids - self.image_offset

    @classmethod
    def from_pretrained_parts(cls, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """Returns the ids of a checkpoint: those of its config key ``special_token_ids``, or else the published ones.

        A text-only checkpoint with another mask id, such as iLLaDA's, has the mask of its config, and the first and
        last token of its tokenizer.

        Raises:
            ValueError: The tokenizer's length differs from the published one, so that all image ids would move; it has
                a special token at another id; the image codes do not fit into the embedding; or ``special_token_ids``
                lacks some.
        """
        own = getattr(config, "special_token_ids", None) or _text_ids(config, tokenizer)
        ids = own or PUBLISHED_IDS
        missing = sorted(PUBLISHED_IDS.keys() - ids.keys())
        if missing:
            raise CheckpointError(
                f"special_token_ids of the checkpoint's config has no {', '.join(missing)}; add them"
            )
        codebook_size = getattr(config, "codebook_size", 0) or 0
        if own is None and len(tokenizer) != PUBLISHED_TOKENIZER_LENGTH:
            raise CheckpointError(
                f"the tokenizer has {len(tokenizer)} tokens, expected {PUBLISHED_TOKENIZER_LENGTH}: every image id "
                "would move. Use the tokenizer that came with the checkpoint, without added tokens"
            )
        own_mask = getattr(config, "mask_token_id", None)
        if own_mask not in (None, ids["mask"]):
            raise CheckpointError(
                f"config.json says mask_token_id {own_mask}, but the mask of this vocabulary is {ids['mask']}; a "
                "checkpoint with other special tokens has to name all of them in special_token_ids"
            )
        for name, token in TOKEN_NAMES.items():
            found = token_id(tokenizer, token)
            if found is not None and found != ids[name]:
                raise CheckpointError(
                    f"the tokenizer has {token} at id {found}, the checkpoint at {ids[name]}: they do not belong "
                    "together. Use the tokenizer that came with the checkpoint"
                )
        num_rows = getattr(config, "embedding_size", None)
        if codebook_size and num_rows is not None and len(tokenizer) + codebook_size > num_rows:
            raise CheckpointError(
                f"codebook_size is {codebook_size} behind {len(tokenizer)} tokens, but the embedding has {num_rows} "
                "rows; add rows to a text-only checkpoint first, by `unigrpo add-image-tokens`"
            )
        return cls(
            mask_id=ids["mask"],
            begin_of_text_id=ids["begin_of_text"],
            end_of_text_id=ids["end_of_text"],
            image_pad_id=ids["image_pad"],
            soi_id=ids["soi"],
            eoi_id=ids["eoi"],
            t2i_id=ids["t2i"],
            mmu_id=ids["mmu"],
            r2i_id=ids["r2i"],
            end_header_id=token_id(tokenizer, END_HEADER),
            image_offset=len(tokenizer),
            codebook_size=codebook_size,
        )


def _text_ids(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, int] | None:
    """Returns the ids of a text-only checkpoint that is not LLaDA-8B, or None if it may be one.

    The mask comes from the config, and begin- and end-of-text from the tokenizer; both files must agree.

    Raises:
        CheckpointError: The tokenizer lacks an id, or the two differ.
    """
    mask = getattr(config, "mask_token_id", None)
    if mask in (None, PUBLISHED_IDS["mask"]) or getattr(config, "codebook_size", 0):
        return None
    if len(tokenizer) == PUBLISHED_TOKENIZER_LENGTH:
        return None
    found: dict[str, int] = {"mask": mask}
    for name, key in (("begin_of_text", "bos_token_id"), ("end_of_text", "eos_token_id")):
        said = getattr(tokenizer, key, None)
        if not isinstance(said, int):
            raise CheckpointError(
                f"the tokenizer has no {key}, and the checkpoint is none of the published ones; name the special "
                "tokens in special_token_ids of config.json"
            )
        found[name] = said
    for name, key in (("mask", "mask_token_id"), ("begin_of_text", "bos_token_id"), ("end_of_text", "eos_token_id")):
        for where, source in (("config.json", config), ("tokenizer", tokenizer)):
            other = getattr(source, key, None)
            if isinstance(other, int) and other != found[name]:
                raise CheckpointError(
                    f"{key} is {other} in the {where}, and {found[name]} elsewhere; correct one of them, or name the "
                    "special tokens in special_token_ids of config.json"
                )
    return {name: found.get(name, NO_TOKEN) for name in PUBLISHED_IDS}


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Returns the id of a token; None if the tokenizer does not have it.

    This function avoids ``get_vocab``, which copies all tokens and needs 60 ms for the 126,000 of LLaDA.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    return found if isinstance(found, int) and found != tokenizer.unk_token_id else None


def _check_range(what: str, values: Tensor, first: int, end: int, hint: str) -> None:
    if values.numel() and not first <= int(values.min()) <= int(values.max()) < end:
        raise CheckpointError(
            f"image {what} are in {int(values.min())}..{int(values.max())}, expected {first}..{end - 1}; {hint}"
        )
