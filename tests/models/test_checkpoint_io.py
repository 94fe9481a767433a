"""Loading a checkpoint: what fits loads exactly, and everything else says what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from unigrpo.models.checkpoint_io import load_config, load_policy
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.preflight import load_tokenizer

QUERY = "model.transformer.blocks.1.q_proj.weight"


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    """A copy of the tiny checkpoint."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def load(folder):
    return load_policy(folder, torch.float32, "sdpa")


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_checkpoint_loads_exactly(folder):
    model = load(folder)
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())


def test_the_type_of_the_weights_is_the_one_asked_for(folder):
    change_config(folder, torch_dtype="float32")
    model = load_policy(str(folder), torch.bfloat16, "eager")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"


def test_shards_load_as_one_file_does(folder, tmp_path):
    whole = load(folder).state_dict()
    MMadaModelLM.from_pretrained(folder).save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    sharded = load(tmp_path / "shards").state_dict()
    assert all(torch.equal(sharded[name], tensor) for name, tensor in whole.items())


def test_a_llada_checkpoint_loads_and_its_code_is_not_run(folder, tmp_path):
    plain = load(folder).state_dict()
    mark = tmp_path / "was_run"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass LLaDAConfig: ...\nclass LLaDAModelLM: ...\n"
    for name in ("configuration_llada.py", "modeling_llada.py"):
        (folder / name).write_text(code)
    change_config(
        folder,
        model_type="llada",
        architectures=["LLaDAModelLM"],
        auto_map={
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModel": "modeling_llada.LLaDAModelLM",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        },
        block_type="llama",
        layer_norm_type="rms",
        weight_tying=False,
        use_cache=False,
    )
    model = load(folder)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in plain.items())
    assert len(load_tokenizer(str(folder))) == len(AutoTokenizer.from_pretrained(folder))
    assert not mark.exists()
    model.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert "auto_map" not in written, "its code does not come along"
    assert (written["model_type"], written["architectures"]) == ("mmada", ["MMadaModelLM"])
    assert torch.equal(load(tmp_path / "again").state_dict()[QUERY], plain[QUERY])


def test_the_published_sizes_of_llada_give_its_published_parameter_count(tmp_path):
    sizes = {
        "model_type": "llada",
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
        "embedding_size": 126464,
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    with torch.device("meta"):
        model = MMadaModelLM(load_config(tmp_path))
    assert model.num_parameters() == 8_015_581_184


# What is refused.


def test_a_folder_that_is_none_is_refused(tmp_path):
    for wrong in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(
            ValueError, match=rf"{re.escape(str(wrong))}: no config\.json could be read; give a folder"
        ):
            load(wrong)


def test_a_config_that_is_no_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"no config\.json could be read"):
        load(folder)


@pytest.mark.parametrize("model_type", ["qwen2", "llama", None])
def test_another_architecture_is_refused(folder, model_type):
    change_config(folder, model_type=model_type)
    with pytest.raises(ValueError, match=f"model_type is {model_type!r}, expected one of mmada, llada"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "value"), [("weight_tying", True), ("rope", False), ("activation_type", "gelu"), ("alibi", True)]
)
def test_a_variant_of_the_transformer_is_refused(folder, name, value):
    change_config(folder, **{name: value})
    with pytest.raises(ValueError, match=f"{name} is {value!r} in config.json, only"):
        load(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="weights could not be loaded; copy or download"):
        load(folder)


def test_a_missing_shard_is_refused_and_named(folder):
    MMadaModelLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="4KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=f"weights could not be loaded.*{shard.name}"):
        load(folder)


def test_a_file_that_was_cut_short_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="weights could not be loaded; copy or download"):
        load(folder)


def test_a_missing_tensor_is_refused_and_not_drawn_at_random(folder):
    change_weights(folder, lambda weights: weights.pop(QUERY))
    with pytest.raises(ValueError, match=f"1 tensors are missing: {QUERY};"):
        load(folder)


def test_a_tensor_of_another_shape_is_refused(folder):
    change_weights(folder, lambda weights: weights.update({QUERY: torch.zeros(8, 16)}))
    with pytest.raises(ValueError, match="weights could not be loaded"):
        load(folder)


def test_a_tensor_that_the_model_does_not_have_is_refused(folder):
    change_weights(folder, lambda weights: weights.update({f"{QUERY[:-7]}.bias": torch.zeros(16)}))
    with pytest.raises(ValueError, match=r"1 tensors are unknown: model\.transformer\.blocks\.1\.q_proj\.bias;"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_with_nan_or_infinity_is_refused(folder, value):
    change_weights(folder, lambda weights: weights[QUERY].view(-1)[5].fill_(value))
    with pytest.raises(ValueError, match=f"1 tensors hold NaN or infinity: {QUERY};"):
        load(folder)


def test_many_missing_tensors_are_counted_and_some_named(folder):
    change_config(folder, n_layers=4)
    with pytest.raises(ValueError, match=r"18 tensors are missing: .*attn_norm.* and 15 more;"):
        load(folder)


def test_a_config_keeps_the_keys_that_the_vocabulary_needs(folder):
    config = load_config(folder)
    assert isinstance(config, MMadaConfig)
    assert config.special_token_ids["mask"] == config.mask_token_id  # type: ignore[attr-defined]
