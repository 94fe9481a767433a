"""Tests that equal rows of a batch go through the model once, and that each of them gets the logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.cache import KeyValueCache
from unigrpo.models.sampling.equal_rows import EqualRowsOnce

LENGTH = 7
SIZES: dict[str, Any] = {"d_model": 16, "n_heads": 2, "mlp_hidden_size": 32, "vocab_size": 50, "init_std": 0.4}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MMadaModelLM(MMadaConfig(n_layers=2, **SIZES)).eval()


def rows(kinds):
    """Returns tokens, mask and requested positions of rows of five kinds.

    Kinds 0, 1 and 2 differ only in mask or positions. Kind 4 requests no position.
    """
    tokens = torch.arange(5)[:, None] * 7 + torch.arange(LENGTH)
    tokens[1:3] = tokens[0]
    token_mask = torch.ones(5, LENGTH, dtype=torch.bool)
    token_mask[1, :2] = False
    positions = torch.zeros(5, LENGTH, dtype=torch.bool)
    positions[:2, 3:5] = positions[2, 2:6] = positions[3, 6] = True
    return tokens[kinds], token_mask[kinds], positions[kinds]


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize(
    ("kinds", "num_passed"),
    [([0], 1), ([0, 0, 0], 1), ([3, 0, 3, 4, 0, 2], 4), ([2, 2, 1, 0, 1, 3], 4), ([4, 4, 3], 2), ([0, 2, 3, 4], 4)],
)
def test_the_logits_are_those_of_all_rows(model, kinds, num_passed, is_padded):
    tokens, token_mask, positions = rows(kinds)
    passed = []

    def spy(tokens, **arguments):
        passed.append((len(tokens), arguments["num_positions"], int(arguments["positions"].sum())))
        return model(tokens, **arguments)

    mask, number = token_mask if is_padded else None, int(positions.sum())
    once = EqualRowsOnce(spy)
    logits = once(tokens, attention_mask=mask, positions=positions, num_positions=number, vocab_slice=(5, 40)).logits
    expected = torch.cat(
        [
            model(row[None], attention_mask=None if mask is None else own_mask[None], vocab_slice=(5, 40)).logits[0][
                own
            ]
            for row, own_mask, own in zip(tokens, token_mask, positions, strict=True)
        ]
    )
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    ((num_rows, stated, requested),) = passed
    assert num_rows == num_passed - (not is_padded and {0, 1} <= set(kinds)), "kinds 0 and 1 differ only in the mask"
    assert stated == requested


def test_a_pass_with_a_cache_computes_all_rows(model):
    tokens, _, positions = rows([0, 0])
    cache = KeyValueCache()
    EqualRowsOnce(model)(tokens, attention_mask=None, positions=positions, num_positions=4, cache=cache)
    assert cache.is_filled
    key, _ = cache.update(0, *torch.zeros(2, 2, 2, 0, 8))
    assert len(key) == 2, "each row needs its own keys and values"
