"""Adding image tokens to a text-only checkpoint."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from unigrpo import CheckpointError
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.vocabulary import NO_TOKEN, PUBLISHED_CODEBOOK_SIZE, Vocabulary

NOISE = 0.1
"""Standard deviation of new rows relative to that of the rows of text tokens."""


def add_image_tokens(
    model: MMadaModelLM,
    tokenizer: PreTrainedTokenizerBase,
    *,
    generator: torch.Generator,
    codebook_size: int = PUBLISHED_CODEBOOK_SIZE,
) -> Vocabulary:
    """Adds a row for every image code to the embedding and the head of a LLaDA checkpoint, in place.

    The layout is that of MMaDA: one row per code is appended, but the ids of the codes start at the tokenizer's
    length. Therefore the first codes use the rows that LLaDA had reserved, and the last rows stay unused. Text weights
    do not change. MMaDA let transformers initialise the new rows, which sets all of them close to the mean. Here they
    are sampled around the mean of the tokenizer's rows and differ, so that an untrained code is not a likely token.

    Args:
        model: A text-only model.
        tokenizer: The tokenizer of the checkpoint, without added tokens.
        generator: Random generator of the new rows, on the CPU.
        codebook_size: Number of image codes.

    Returns:
        The vocabulary with the image codes.

    Raises:
        ValueError: The model has image codes already, it has no special tokens for images, or the tokenizer belongs to
            another model.
    """
    config = model.config
    if getattr(config, "codebook_size", 0):
        raise CheckpointError(
            f"the checkpoint has {config.codebook_size} image codes already; only text-only checkpoints are grown"
        )
    if Vocabulary.from_pretrained_parts(config, tokenizer).soi_id == NO_TOKEN:
        raise CheckpointError(
            "the checkpoint has no tokens for the start and the end of an image and for its tasks; name them in "
            "special_token_ids of config.json"
        )
    old_size = config.embedding_size
    if len(tokenizer) > old_size:
        raise CheckpointError(
            f"the tokenizer has {len(tokenizer)} tokens and the embedding {old_size} rows; use the checkpoint's own"
        )
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for layer in (embedding, head):
        layer.weight = nn.Parameter(_grown(layer.weight.detach(), len(tokenizer), codebook_size, generator))
    embedding.num_embeddings = head.out_features = old_size + codebook_size
    config.vocab_size = config.embedding_size = config.new_vocab_size = old_size + codebook_size
    config.llm_vocab_size = old_size
    config.codebook_size = codebook_size
    config.num_new_special_tokens = 0
    return Vocabulary.from_pretrained_parts(config, tokenizer)


def _grown(
    rows: Float[Tensor, "V D"], num_tokens: int, num_new: int, generator: torch.Generator
) -> Float[Tensor, "W D"]:
    text = rows[:num_tokens].float()
    noise = torch.randn(num_new, rows.shape[1], generator=generator).to(rows.device)
    new = text.mean(0) + NOISE * text.std(0) * noise
    return torch.cat([rows, new.to(rows.dtype)])
