"""Tests adding MMaDA's image tokens to LLaDA: rows, offset, and unchanged text."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from unigrpo.models.checkpoint_io import load_config, load_policy, save_policy
from unigrpo.models.image_tokens import add_image_tokens
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.vocabulary import Vocabulary

RESERVED = 3
"""Number of rows of the text-only checkpoint beyond the tokenizer."""


@pytest.fixture
def tokenizer(tiny_model_folder):
    return AutoTokenizer.from_pretrained(tiny_model_folder)


@pytest.fixture
def model(tiny_model_folder, tokenizer):
    config = MMadaConfig.from_pretrained(tiny_model_folder)
    config.vocab_size = config.embedding_size = len(tokenizer) + RESERVED
    torch.manual_seed(0)
    return MMadaModelLM(config).eval()


def grow(model, tokenizer, codebook_size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return add_image_tokens(model, tokenizer, generator=generator, codebook_size=codebook_size)


def test_codes_start_at_the_tokenizers_length_and_as_many_rows_are_appended(model, tokenizer):
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    size = len(tokenizer) + RESERVED
    vocabulary = grow(model, tokenizer)
    assert vocabulary.image_slice == (len(tokenizer), len(tokenizer) + 32)
    assert (model.config.vocab_size, model.config.embedding_size) == (size + 32, size + 32)
    assert (model.config.llm_vocab_size, model.config.new_vocab_size) == (size, size + 32)
    for name, tensor in model.state_dict().items():
        if name in ("model.transformer.wte.weight", "model.transformer.ff_out.weight"):
            assert tensor.shape == (size + 32, 16)
            assert torch.equal(tensor[:size], old[name])
            assert tensor[size:].unique(dim=0).shape[0] == 32, "codes differ"
        else:
            assert torch.equal(tensor, old[name])


def test_text_logits_do_not_change(model, tokenizer):
    tokens = torch.arange(20).view(2, 10)
    before = model(tokens).logits
    grow(model, tokenizer)
    after = model(tokens).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    assert after.shape[-1] == before.shape[-1] + 32


def test_new_rows_have_the_mean_of_the_text_rows(model, tokenizer):
    embedding = model.get_input_embeddings()
    embedding.weight.data[: len(tokenizer)] += 5
    grow(model, tokenizer, codebook_size=4096)
    weight = embedding.weight.detach()
    text, new = weight[: len(tokenizer)], weight[-4096:]
    # There are 4096 draws with a tenth of the standard deviation of the text rows.
    torch.testing.assert_close(new.mean(0), text.mean(0), rtol=0, atol=5 * 0.1 * float(text.std(0).max()) / 64)
    torch.testing.assert_close(new.std(0), 0.1 * text.std(0), rtol=0.06, atol=0)


def test_the_generator_determines_the_new_rows(model, tokenizer):
    grown = []
    for seed in (0, 0, 1):
        copy = deepcopy(model)
        grow(copy, tokenizer, seed=seed)
        grown.append(copy.get_input_embeddings().weight)
    assert torch.equal(grown[0], grown[1])
    assert not torch.equal(grown[0], grown[2])


def test_a_checkpoint_with_added_tokens_is_saved_and_loaded_like_any_other(model, tokenizer, tmp_path):
    grow(model, tokenizer)
    save_policy(model, tokenizer, tmp_path)
    again = load_policy(tmp_path, torch.float32, "sdpa")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    vocabulary = Vocabulary.from_pretrained_parts(again.config, AutoTokenizer.from_pretrained(tmp_path))
    assert vocabulary.codebook_size == 32


def test_published_llada_with_added_tokens_has_the_published_size_of_mmada(tmp_path):
    class Tokenizer:
        __class__ = PreTrainedTokenizerBase  # type: ignore[assignment]
        unk_token_id = None

        def __len__(self):
            return 126349

        def convert_tokens_to_ids(self, token):
            return None

    llada = {"model_type": "llada", "vocab_size": 126464, "embedding_size": 126464}
    (tmp_path / "config.json").write_text(json.dumps(llada))
    with torch.device("meta"):
        model = MMadaModelLM(load_config(tmp_path))
    vocabulary = add_image_tokens(model, Tokenizer(), generator=torch.Generator())  # type: ignore[arg-type]
    assert vocabulary.image_slice == (126349, 134541)
    assert model.config.new_vocab_size == 134656
    assert model.num_parameters() == 8_082_690_048


# Tests of errors.


def test_image_tokens_are_not_added_twice(model, tokenizer):
    grow(model, tokenizer)
    with pytest.raises(ValueError, match="has 32 image codes already"):
        grow(model, tokenizer)


def test_a_tokenizer_with_added_tokens_is_refused(model, tokenizer):
    tokenizer.add_tokens(["a", "b", "<1>", "<2>", "<3>", "<4>"])
    with pytest.raises(ValueError, match=rf"has {len(tokenizer)} tokens and the embedding {len(tokenizer) - 1} rows"):
        grow(model, tokenizer)


@pytest.mark.parametrize(
    ("mask", "message"),
    [(126336, "every image id would move"), (2, "no tokens for the start and the end of an image")],
)
def test_a_published_tokenizer_with_an_added_token_and_one_without_image_tokens_are_refused(
    model, tokenizer, mask, message
):
    model.config.special_token_ids = None
    model.config.mask_token_id = mask
    with pytest.raises(ValueError, match=message):
        grow(model, tokenizer)
    assert not getattr(model.config, "codebook_size", 0)
