"""Tests that valid checkpoints load exactly and that errors about other checkpoints say what is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from builders import change_weights
from safetensors.torch import load_file
from transformers import AutoTokenizer

from unigrpo import CheckpointError
from unigrpo.config import LoRAConfig
from unigrpo.cost.memory import ModelSize
from unigrpo.models import checkpoint_io, weight_files
from unigrpo.models.checkpoint_io import load_config, load_policy, save_policy
from unigrpo.models.loading import load_tokenizer
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.vocabulary import Vocabulary

QUERY = "model.transformer.blocks.1.q_proj.weight"


@pytest.fixture
def folder(tiny_model_folder, tmp_path):
    """Returns a copy of the tiny checkpoint."""
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


def load(folder):
    return load_policy(folder, torch.float32, "sdpa")


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_checkpoint_loads_exactly(folder):
    model = load(folder)
    assert not model.training
    assert model.config._attn_implementation == "sdpa"
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in stored.items())


def test_the_type_of_the_weights_is_the_requested_one(folder):
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
    assert "auto_map" not in written, "its code is not copied"
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


# Tests of the Hub.


def test_a_hub_name_is_downloaded_without_code_or_pickles(folder, monkeypatch):
    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr(weight_files, "snapshot_download", download)
    model = load("GSAI-ML/LLaDA-8B-Instruct")
    assert torch.equal(model.state_dict()[QUERY], load(folder).state_dict()[QUERY])
    assert {name for name, _ in asked} == {"GSAI-ML/LLaDA-8B-Instruct"}
    assert asked[0][1] == ["*.json"], "loading the config needs no weights"
    assert "*.safetensors" in asked[1][1]
    assert not any(pattern.endswith((".py", ".bin", ".pt", "*")) for _, patterns in asked for pattern in patterns)


# Tests of saving.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard_size", ["5GB", "4KB"])
def test_a_saved_checkpoint_is_loaded_bit_equal_in_the_published_layout(
    folder, tmp_path, dtype, shard_size, monkeypatch
):
    monkeypatch.setattr(checkpoint_io, "MAX_SHARD_SIZE", shard_size)
    model, tokenizer = load_policy(folder, dtype, "sdpa"), AutoTokenizer.from_pretrained(folder)
    saved = tmp_path / "saved"
    save_policy(model, tokenizer, saved)
    again = load_policy(saved, dtype, "sdpa").state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())

    files = sorted(saved.glob("*.safetensors"))
    stored = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert stored.keys() == again.keys()
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    if shard_size == "4KB":
        index = json.loads((saved / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == stored.keys()
        assert set(index["weight_map"].values()) == {file.name for file in files}
        assert len(files) > 2
    else:
        assert [file.name for file in files] == ["model.safetensors"]

    ids = model.config.special_token_ids
    generation = json.loads((saved / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (ids["begin_of_text"], ids["end_of_text"])
    config = json.loads((saved / "config.json").read_text())
    assert config["torch_dtype"] == str(dtype).removeprefix("torch.")
    other = AutoTokenizer.from_pretrained(saved)
    assert other.get_vocab() == tokenizer.get_vocab()
    assert other.chat_template == tokenizer.chat_template


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_saved_weights_have_the_permissions_that_the_umask_gives(folder, tmp_path, umask, mode, monkeypatch):
    """The safetensors library always uses 0o600, with which other users cannot read a model."""
    monkeypatch.setattr(checkpoint_io, "MAX_SHARD_SIZE", "4KB")
    before = os.umask(umask)
    try:
        save_policy(load(folder), AutoTokenizer.from_pretrained(folder), tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.safetensors")} == {mode}


def test_saving_again_removes_old_shards(folder, tmp_path, monkeypatch):
    model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_io, "MAX_SHARD_SIZE", "4KB")
        save_policy(model, tokenizer, tmp_path)
    model.get_input_embeddings().weight.data.zero_()
    save_policy(model, tokenizer, tmp_path)
    assert not load(tmp_path).get_input_embeddings().weight.any()
    assert [file.name for file in tmp_path.glob("model[.-]*")] == ["model.safetensors"], "the old index remains"


def test_stale_keys_of_a_published_config_change_nothing(folder, tmp_path):
    plain = load(folder)
    stale = {
        "num_vq_tokens": 256,
        "init_device": "meta",
        "flash_attention": True,
        "precision": "amp_bf16",
        "torch_dtype": "float16",
        "alibi_bias_max": 8.0,
        "multi_query_attention": None,
        "block_group_size": 1,
        "w_clip_vit": False,
        "embedding_dropout": 0.5,
        "use_cache": True,
        "transformers_version": "4.46.0",
    }
    change_config(folder, **stale)
    model = load(folder)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(model(tokens).logits, plain(tokens).logits)
    save_policy(model, AutoTokenizer.from_pretrained(folder), tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert written["num_vq_tokens"] == 256, "files of others are kept"
    assert written["torch_dtype"] == "float32"


# Tests of errors.


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))}/nowhere: there is no such folder; give"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path))}: no config\.json could be read; give a folder"):
        load(tmp_path)


def test_a_config_with_invalid_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"no config\.json could be read"):
        load(folder)


@pytest.mark.parametrize("model_type", ["qwen2", "llama", None])
def test_another_architecture_is_refused(folder, model_type):
    change_config(folder, model_type=model_type)
    with pytest.raises(ValueError, match=f"model_type is {model_type!r}, expected one of mmada, llada"):
        load(folder)


@pytest.mark.parametrize("name", ["model_type", "activation_type"])
def test_a_long_value_of_a_config_is_shown_in_part(folder, name):
    change_config(folder, **{name: "a" * 5000})
    with pytest.raises(ValueError, match=rf"{name} is 'aaa.{{,40}}'") as raised:
        load(folder)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("name", "value"), [("weight_tying", True), ("rope", False), ("activation_type", "gelu"), ("alibi", True)]
)
def test_a_variant_of_the_transformer_is_refused(folder, name, value):
    change_config(folder, **{name: value})
    with pytest.raises(ValueError, match=f"the architecture is not LLaDA's.* {name} is {value!r} in place of"):
        load(folder)


def test_all_differences_of_an_architecture_are_named_at_once(folder):
    """iLLaDA-8B ties its embeddings (arXiv:2606.25331, table 1), which is an error. Its grouped heads are
    supported."""
    change_config(folder, tie_word_embeddings=True, weight_tying=True, n_kv_heads=1)
    message = "in config.json tie_word_embeddings is True in place of False, weight_tying is True in place of False$"
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_the_config_of_llada_8b_and_of_llada_1_5_has_the_published_number_of_parameters(tmp_path):
    values = {
        "model_type": "llada", "architectures": ["LLaDAModelLM"], "activation_type": "silu", "alibi": False,
        "attention_layer_norm": False, "bias_for_layer_norm": False, "block_group_size": 1, "block_type": "llama",
        "d_model": 4096, "embedding_size": 126464, "eos_token_id": 126081, "flash_attention": False,
        "include_bias": False, "include_qkv_bias": False, "init_fn": "mitchell", "init_std": 0.02,
        "input_emb_norm": False, "layer_norm_type": "rms", "mask_token_id": 126336, "max_sequence_length": 4096,
        "mlp_hidden_size": 12288, "mlp_ratio": 4, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32,
        "pad_token_id": 126081, "rms_norm_eps": 1e-05, "rope": True, "rope_full_precision": True,
        "rope_theta": 500000.0, "scale_logits": False, "tie_word_embeddings": False, "vocab_size": 126464,
        "weight_tying": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    # According to the index of the published weights, there are 16,031,162,368 bytes of bfloat16.
    assert ModelSize.of(load_config(tmp_path), LoRAConfig()).num_parameters == 16_031_162_368 // 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_heads", 0), ("n_heads", 3), ("n_heads", 16), ("n_kv_heads", 3), ("d_model", "x"), ("d_model", None),
        ("n_layers", "4"), ("n_layers", 1e300), ("n_layers", 10**9), ("n_layers", True), ("vocab_size", -1),
        ("codebook_size", -5), ("rope_theta", float("nan")), ("rope_theta", 0), ("rms_norm_eps", "1e-5"),
        ("dtype", "evil"), ("torch_dtype", "int4"), ("quantization_config", {"bits": 4}),
        ("rope_scaling", {"factor": 2.0}), ("special_token_ids", [1]), ("special_token_ids", {"mask": "x"}),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0}), ("rope_parameters", {"rope_theta": 123.0}),
        ("rope_parameters", 5), ("mask_token_id", 2.5), ("max_sequence_length", 0), ("embedding_size", 0.5),
        ("mlp_hidden_size", {}),
    ],
)  # fmt: skip
def test_a_value_that_no_model_can_have_is_refused_and_named(folder, name, value):
    change_config(folder, **{name: value})
    with pytest.raises(ValueError, match=rf"model: {name} is .* in config\.json, expected "):
        load_config(folder)


def test_rope_parameters_of_transformers_5_are_read_if_they_change_nothing(folder):
    change_config(folder, rope_theta=500000.0, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    assert load_config(folder).rope_theta == 500000.0


@pytest.mark.parametrize("content", ["[1]", "3", '"x"', "{}", "[" * 100_000, "\x00"])
def test_a_config_that_is_no_object_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"no config\.json could be read; give a folder"):
        load_config(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[1]", "[" * 100_000, "{", '{"model": 5}'])
def test_tokenizer_files_of_any_content_end_in_one_line(folder, name, content):
    (folder / name).write_text(content)
    try:
        load_tokenizer(str(folder))
    except ValueError as error:
        assert "no tokenizer could be loaded" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "value"), [("dtype", "evil"), ("rope_parameters", {"rope_type": "yarn"}), ("d_model", 0)]
)
def test_a_value_of_the_config_that_stops_the_tokenizer_is_named(folder, name, value):
    """transformers reads config.json to choose the class of the tokenizer."""
    change_config(folder, **{name: value})
    (folder / "tokenizer.json").write_text("[1]")
    with pytest.raises(ValueError, match=rf"{name} is .* in config\.json, expected "):
        load_tokenizer(str(folder))


def test_keys_that_name_code_or_other_programs_are_left_out(folder):
    change_config(folder, auto_map={"AutoModel": "evil.Model"}, tp_plan={"a": "b"}, n_kv_heads=None)
    values = load_config(folder).to_dict()
    assert not {"auto_map", "tp_plan"} & values.keys()


def test_another_mask_token_than_the_vocabularys_is_refused(folder):
    change_config(folder, mask_token_id=0)
    with pytest.raises(ValueError, match=r"config\.json says mask_token_id 0, but the mask of this vocabulary is"):
        Vocabulary.from_pretrained_parts(load_config(folder), load_tokenizer(str(folder)))


def test_pickled_weights_beside_safetensors_are_not_read(folder):
    """transformers reads pytorch_model.bin where it does not find model.safetensors."""
    weights = load_file(folder / "model.safetensors")
    torch.save({name: torch.zeros_like(value) for name, value in weights.items()}, folder / "pytorch_model.bin")
    assert load(folder).state_dict()[QUERY].abs().sum() > 0
    (folder / "model.safetensors").rename(folder / "pytorch_model.safetensors")
    with pytest.raises(ValueError, match="there are no weights; expected"):
        load(folder)


def test_a_single_file_beside_shards_is_refused(folder):
    stray = (folder / "model.safetensors").read_bytes()
    MMadaModelLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="4KB")
    (folder / "model.safetensors").write_bytes(stray)
    with pytest.raises(ValueError, match=r"model\.safetensors and model\.safetensors\.index\.json are both there"):
        load(folder)


def test_an_index_cannot_name_a_file_outside_of_the_folder(folder, tmp_path):
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {QUERY: "../outside.safetensors"}}))
    with pytest.raises(ValueError, match=r"names '\.\./outside\.safetensors', which is not in this folder"):
        load(folder)


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(ValueError, match=r"there are no weights; expected .*other formats are not read"):
        load(folder)


def test_a_missing_shard_is_refused_and_named(folder):
    MMadaModelLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="4KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard.name} is missing, one of \d+ files"):
        load(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_an_invalid_index_is_refused_and_named(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json: not an index of weights"):
        load(folder)


def test_a_file_that_was_cut_short_is_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read .*cut short"):
        load(folder)


def test_a_missing_tensor_is_refused_and_not_initialized_at_random(folder):
    change_weights(folder, lambda weights: weights.pop(QUERY))
    with pytest.raises(ValueError, match=f"1 tensors are missing: {QUERY};"):
        load(folder)


def test_a_tensor_of_another_shape_is_refused_before_the_model_is_allocated(folder, monkeypatch):
    monkeypatch.setattr(MMadaModelLM, "from_pretrained", lambda *_, **__: pytest.fail("the model was made"))
    change_weights(folder, lambda weights: weights.update({QUERY: torch.zeros(8, 16)}))
    with pytest.raises(
        CheckpointError, match=rf"1 tensors have another shape .* such as {QUERY}: \[8, 16\], expected \[16"
    ):
        load(folder)
    change_config(folder, d_model=4096, n_layers=5)
    with pytest.raises(CheckpointError, match=r"tensors are missing: model\.transformer\.blocks\.2"):
        load(folder)


def test_a_field_that_transformers_refuses_is_one_line(folder):
    change_config(folder, architectures=[0.5])
    with pytest.raises(CheckpointError, match=r"model: config.json has an invalid value \(.*architectures"):
        load_config(folder)


def test_a_tensor_that_the_model_does_not_have_is_refused(folder):
    change_weights(folder, lambda weights: weights.update({f"{QUERY[:-7]}.bias": torch.zeros(16)}))
    with pytest.raises(ValueError, match=r"1 tensors are unknown: model\.transformer\.blocks\.1\.q_proj\.bias;"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_with_nan_or_infinity_is_refused(folder, value):
    change_weights(folder, lambda weights: weights[QUERY].view(-1)[5].fill_(value))
    with pytest.raises(ValueError, match=f"1 tensors hold NaN or infinity: {QUERY};"):
        load(folder)
    unchecked = load_policy(folder, torch.float32, "eager", check_values=False)  # another process of the node checks
    assert not unchecked.state_dict()[QUERY].isfinite().all()


def test_many_missing_tensors_are_counted_and_some_named(folder):
    change_config(folder, n_layers=4)
    with pytest.raises(ValueError, match=r"18 tensors are missing: .*attn_norm.* and 15 more;"):
        load(folder)


def test_a_config_keeps_the_keys_that_the_vocabulary_needs(folder):
    config = load_config(folder)
    assert isinstance(config, MMadaConfig)
    assert config.special_token_ids["mask"] == config.mask_token_id  # type: ignore[attr-defined]
