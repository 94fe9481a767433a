"""Tests that fused functions between the matrix products give the same numbers, and that copies of a model keep
them."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from unigrpo.models.checkpoint_io import load_policy, meta_copy
from unigrpo.models.fused_ops import FusedOps, compiled
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.transformer_block import Block, RMSNorm

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler (g++)")
SIZES = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 48, "vocab_size": 40}


def build(dtype: torch.dtype = torch.float32) -> MMadaModelLM:
    torch.manual_seed(0)
    return MMadaModelLM(MMadaConfig(**SIZES, init_std=0.3)).to(dtype).eval()  # type: ignore[arg-type]


def used(model: PreTrainedModel) -> set[int]:
    """Returns the functions that the layers use."""
    return {id(module.fused_ops) for module in model.modules() if isinstance(module, (RMSNorm, Block))}


def test_every_layer_and_every_copy_uses_the_functions_that_were_set() -> None:
    functions = FusedOps()
    model = build()
    model.set_fused_ops(functions)
    assert used(model) == used(meta_copy(model)) == {id(functions)}


@needs_compiler
def test_a_policy_is_compiled_only_on_request(tiny_model_folder: str) -> None:
    assert load_policy(tiny_model_folder, torch.float32, "sdpa").fused_ops == FusedOps()
    assert load_policy(tiny_model_folder, torch.float32, "sdpa", compile=True).fused_ops is compiled()


def test_without_a_compiler_the_error_says_what_to_do(
    tiny_model_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled.cache_clear()
    for variable in ("CC", "CXX"):
        monkeypatch.setenv(variable, str(tmp_path / "no-compiler"))
    with pytest.raises(ValueError, match=r"needs a compiler.*no-compiler.*or set ds.compile false"):
        load_policy(tiny_model_folder, torch.float32, "sdpa", compile=True)


@needs_compiler
def test_without_the_headers_of_python_the_error_says_what_to_do(
    tiny_model_folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled.cache_clear()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(ValueError, match=rf"there is no {tmp_path}/Python.h; install them .*python3-dev"):
        load_policy(tiny_model_folder, torch.float32, "sdpa", compile=True)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_functions_compute_the_same(dtype: torch.dtype) -> None:
    plain, fused = build(dtype), build(dtype)
    fused.set_fused_ops(compiled())
    found = []
    for model in (plain, fused):
        outs = []
        for rows, length in ((3, 7), (1, 7), (3, 12)):  # other shapes, which may be compiled again
            tokens = torch.arange(rows * length).reshape(rows, length) % SIZES["vocab_size"]
            logits = model(tokens).logits
            logits.float().square().mean().backward()
            with torch.no_grad():
                outs += [logits.detach(), model(tokens).logits]
        found.append((outs, [parameter.grad for parameter in model.parameters()]))
    # Separate bfloat16 kernels round between operations, and a fused kernel does not.
    close = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found[1], found[0], rtol=close, atol=close)
