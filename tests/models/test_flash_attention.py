"""Tests ``flash_attention_2`` with kernels in plain PyTorch instead of flash-attn's, which need a GPU.

The arguments of transformers must give attention in both directions, with padding and with caches.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import modeling_flash_attention_utils as flash

from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.sampling.cache import KeyValueCache

LEFT = torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [0] * 5 + [1] * 4], dtype=torch.bool)
CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-4}


class Kernels:
    """The two kernels, which record their calls."""

    def __init__(self) -> None:
        self.called: set[str] = set()

    def dense(self, query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        """Computes attention of tensors (B, L, H, E)."""
        self.called.add("dense")
        return self._rows(query, key, value, **settings)

    def varlen(
        self, query: Tensor, key: Tensor, value: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **settings: Any
    ) -> Tensor:
        """Computes attention of packed tensors (T, H, E) within the borders of the rows."""
        self.called.add("varlen")
        borders = zip(pairwise(cu_seqlens_q.tolist()), pairwise(cu_seqlens_k.tolist()), strict=True)
        rows = [self._rows(query[a:b], key[c:d], value[c:d], **settings) for (a, b), (c, d) in borders]
        return torch.cat(rows)

    def _rows(self, query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Tensor:
        assert not settings.get("causal") and not settings.get("dropout_p")
        groups = query.shape[-2] // key.shape[-2]
        key, value = (part.repeat_interleave(groups, dim=-2).transpose(-3, -2) for part in (key, value))
        scores = query.transpose(-3, -2) @ key.transpose(-1, -2) * settings["softmax_scale"]
        return (scores.softmax(-1) @ value).transpose(-3, -2)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    kernels = Kernels()
    functions = (kernels.dense, kernels.varlen, None, flash._pad_input, flash._unpad_input)

    def arguments(**given: Any) -> dict[str, Any]:
        return {"softmax_scale": given.get("softmax_scale"), "causal": given.get("is_causal")}

    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: (functions, arguments))
    return kernels


@pytest.fixture
def model() -> MMadaModelLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 24, "vocab_size": 40,
    }  # fmt: skip
    return MMadaModelLM(MMadaConfig(**sizes, init_std=0.3, attn_implementation="eager")).eval()


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 40, LEFT.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("mask", "kernel"), [(None, "dense"), (LEFT, "varlen"), (LEFT.flip(1), "varlen")], ids=["none", "left", "right"]
)
@torch.no_grad()
def test_logits_are_those_of_the_reference(model, tokens, kernels, mask, kernel):
    expected = model(tokens, mask).logits
    model.config._attn_implementation = "flash_attention_2"
    real = torch.ones_like(LEFT) if mask is None else mask
    torch.testing.assert_close(model(tokens, mask).logits[real], expected[real], **CLOSE)
    assert kernels.called == {kernel}


@pytest.mark.parametrize("window", [slice(6, None), slice(4, 7)], ids=["prefix", "dual"])
@torch.no_grad()
def test_a_pass_with_a_cache_is_that_of_the_reference(model, tokens, kernels, window):
    found = []
    for implementation in ("eager", "flash_attention_2"):
        model.config._attn_implementation = implementation
        cache = KeyValueCache()
        model(tokens, LEFT, cache=cache)
        cache.first = window.start
        found.append(model(tokens[:, window].flip(0), LEFT, cache=cache).logits[LEFT[:, window]])
    torch.testing.assert_close(*reversed(found), **CLOSE)
    assert kernels.called == {"varlen"}
