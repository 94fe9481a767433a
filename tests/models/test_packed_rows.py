"""Compares passes without padding with padded ones, and tests the arguments of the kernel on a GPU."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.nn.attention import varlen

from unigrpo import ConfigError
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.packed_rows import PackedRows, varlen_attention
from unigrpo.models.sampling.cache import KeyValueCache

MASK = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1], [1] * 7], dtype=torch.bool)
"""Rows with padding on the left, on the right, within the row, and without padding."""


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "d_model": 16,
        "n_layers": 3,
        "n_heads": 4,
        "n_kv_heads": 2,
        "mlp_hidden_size": 24,
        "vocab_size": 40,
    }
    return MMadaModelLM(MMadaConfig(**sizes, init_std=0.3, attn_implementation="varlen")).eval()


@pytest.fixture
def tokens():
    return torch.randint(0, 40, MASK.shape, generator=torch.Generator().manual_seed(1))


CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}
"""Tolerance in float32, the type of norms, rotations and log-probabilities."""


def passed(model, implementation, *arguments, **settings):
    model.config._attn_implementation = implementation
    return model(*arguments, **settings)


def test_logits_of_real_tokens_are_those_of_padded_rows(model, tokens):
    found = passed(model, "varlen", tokens, MASK).logits
    torch.testing.assert_close(found[MASK], passed(model, "eager", tokens, MASK).logits[MASK], **CLOSE)
    assert not found[~MASK].any(), "the hidden states of padding are 0"


@pytest.mark.parametrize("checkpoints", [False, True])
def test_log_probs_and_gradients_are_those_of_padded_rows(model, tokens, checkpoints):
    if checkpoints:
        model.gradient_checkpointing_enable()
    model.train()
    positions = MASK & (torch.arange(7) > 2)
    results = []
    for implementation in ("eager", "varlen"):
        model.zero_grad()
        settings = {"positions": positions, "num_positions": int(positions.sum()), "targets": tokens[positions]}
        log_probs = passed(model, implementation, tokens, MASK, **settings).log_probs
        log_probs.sum().backward()
        results.append((log_probs, *(parameter.grad for parameter in model.parameters())))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **CLOSE)


def test_padding_is_not_computed(model, tokens):
    rows = []
    model.transformer.blocks[0].ff_proj.register_forward_hook(lambda *call: rows.append(call[2].shape))
    passed(model, "varlen", tokens, MASK)
    assert rows == [(1, int(MASK.sum()), 24)]


def test_passes_with_caches_masks_of_pairs_or_hidden_states_are_padded(model, tokens):
    for settings in ({"attention_mask": MASK[:, None, None, :] | ~MASK[:, None, :, None]}, {"attention_mask": MASK}):
        for more in ({"output_hidden_states": True}, {}):
            found, expected = (
                passed(model, implementation, tokens, **settings, **more, cache=KeyValueCache()).logits
                for implementation in ("varlen", "eager")
            )
            torch.testing.assert_close(found[MASK], expected[MASK], **CLOSE)


def test_the_kernel_of_a_gpu_gets_the_borders_of_the_rows(monkeypatch):
    """A loop over the rows between the borders replaces the kernel."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2, 2))
    rows = PackedRows.of(torch.tensor([[True] * 4 + [False], [True] * 5]))
    expected, _ = varlen_attention(torch.nn.Module(), query, key, value, rows, scaling=0.3)

    def kernel(q, k, v, ends, ends_of_keys, longest, longest_keys, *, scale, enable_gqa):
        assert (ends.tolist(), ends.dtype, longest, longest_keys) == ([0, 4, 9], torch.int32, 5, 5)
        assert ends_of_keys.tolist() == ends.tolist() and enable_gqa
        out = torch.empty_like(q, dtype=torch.float32)
        for start, end in pairwise(ends):
            for head in range(4):
                scores = q[start:end, head].float() @ k[start:end, head // 2].float().T * scale
                out[start:end, head] = scores.softmax(-1) @ v[start:end, head // 2].float()
        return out

    class OnGpu(torch.Tensor):
        is_cuda = True

    def attention_on_gpu(dtype):
        query_on_gpu, key_on_gpu, value_on_gpu = (part.to(dtype).as_subclass(OnGpu) for part in (query, key, value))
        return varlen_attention(torch.nn.Module(), query_on_gpu, key_on_gpu, value_on_gpu, rows, scaling=0.3)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    found, _ = attention_on_gpu(torch.bfloat16)
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, atol=0.02, rtol=0.02)
    with pytest.raises(ConfigError, match=r"no GPU kernel for torch\.float32; use ds\.param_dtype bf16, or sdpa"):
        attention_on_gpu(torch.float32)
