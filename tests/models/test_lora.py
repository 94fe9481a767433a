"""Tests LoRA: new adapters change nothing, the base model can be used, and merged weights give the same results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from unigrpo.config import LoRAConfig
from unigrpo.models.checkpoint_io import load_policy, save_weights
from unigrpo.models.lora import add_lora, merge_lora, without_lora
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

SETTINGS = LoRAConfig(rank=4, alpha=8, target_modules=("q_proj", "ff_out"))
TOKENS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def config() -> MMadaConfig:
    return MMadaConfig(d_model=16, n_layers=2, n_heads=2, n_kv_heads=2, mlp_hidden_size=24, vocab_size=20)


@pytest.fixture
def model(config: MMadaConfig) -> MMadaModelLM:
    torch.manual_seed(0)
    return MMadaModelLM(config).eval()


def test_fresh_adapters_change_nothing_and_are_all_that_is_trained(model: MMadaModelLM) -> None:
    before = model(TOKENS).logits
    add_lora(model, SETTINGS)
    torch.testing.assert_close(model(TOKENS).logits, before, rtol=0, atol=0)
    trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
    # two layers x two targets x (A, B); the head, which is also called ff_out, has no adapter
    assert len(trained) == 8
    assert all("blocks" in name and "lora_" in name for name in trained)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 4 * ((16 + 16) + (24 + 16))


def test_the_base_model_has_no_adapters_and_the_merged_weights_include_them(
    model: MMadaModelLM, config: MMadaConfig
) -> None:
    before = model(TOKENS).logits
    add_lora(model, SETTINGS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    with_adapters = model(TOKENS).logits
    assert (with_adapters - before).abs().max() > 0.01
    with without_lora(model):
        torch.testing.assert_close(model(TOKENS).logits, before, rtol=0, atol=0)
    torch.testing.assert_close(model(TOKENS).logits, with_adapters, rtol=0, atol=0)
    plain = MMadaModelLM(config).eval()
    plain.load_state_dict(merge_lora(model, model.state_dict()))
    torch.testing.assert_close(plain(TOKENS).logits, with_adapters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": -1}, "ds.lora.rank is -1"),
        ({"alpha": 0}, "ds.lora.alpha is 0"),
        ({"target_modules": ()}, "ds.lora.target_modules is empty"),
        ({"target_modules": ("query",)}, "ds.lora.target_modules: no 'query'"),
    ],
)
def test_wrong_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**change)


def test_an_export_keeps_the_effect_of_adapters_on_bfloat16_weights(model: MMadaModelLM, tmp_path: Path) -> None:
    """With B of 1e-4 and weights of 0.02, a merge in bfloat16 would lose 90% of the change."""
    model = model.bfloat16()
    base = {name: weight.clone() for name, weight in model.state_dict().items()}
    add_lora(model, SETTINGS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1e-4)
    save_weights(model, model.state_dict(), tmp_path)
    exported = load_policy(tmp_path, torch.float32, "eager").state_dict()
    weights = model.state_dict()
    for name, weight in base.items():
        layer = name.removesuffix(".weight")
        expected = weight.double()
        if f"{layer}.lora_B.default.weight" in weights:
            expected += (
                2
                * weights[f"{layer}.lora_B.default.weight"].double()
                @ weights[f"{layer}.lora_A.default.weight"].double()
            )
            assert not torch.equal(exported[name].double(), weight.double())
        assert (exported[name].double() - expected).abs().max() < 1e-8
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
