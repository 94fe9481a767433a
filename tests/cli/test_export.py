"""Tests `export`: weights, sampling settings and model card.

`tests/end_to_end/hub/test_push.py` tests the upload to the Hub.
"""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file
from saved_run import SAMPLING, save_run

from unigrpo.cli import generate
from unigrpo.cli.main import main
from unigrpo.config import LoRAConfig
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.lora import add_lora


@pytest.fixture
def saved(tmp_path, tiny_model_folder):
    weights = load_policy(tiny_model_folder, torch.float32, "sdpa").state_dict()
    return save_run(tmp_path / "run", tiny_model_folder, {name: w + 1 for name, w in weights.items()}), weights


def test_the_newest_checkpoint_becomes_a_folder_that_loads(saved, capsys):
    run, weights = saved
    assert main(["export", str(run)]) == 0
    folder = run / "policy_step_4"
    assert f"policy of step 4: {folder}" in capsys.readouterr().out
    exported = load_policy(folder, torch.float32, "sdpa").state_dict()
    assert all(torch.equal(exported[name], tensor + 1) for name, tensor in weights.items())
    assert (folder / "tokenizer.json").is_file() and (folder / "generation_config.json").is_file()


@pytest.mark.parametrize("step", ["2", "best"])
def test_a_checkpoint_is_chosen_by_its_step_or_as_the_best(saved, tmp_path, step):
    run, _ = saved
    assert main(["export", str(run), "--step", step, "--output", str(tmp_path / "out")]) == 0
    assert all(not tensor.any() for tensor in load_file(tmp_path / "out" / "model.safetensors").values())


def test_adapters_are_merged(tmp_path, tiny_model_folder):
    model = load_policy(tiny_model_folder, torch.float32, "sdpa")
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_lora(model, LoRAConfig(rank=2, alpha=6))
    weights = {name: torch.randn_like(w) if "lora_B" in name else w for name, w in model.state_dict().items()}
    assert main(["export", str(save_run(tmp_path / "run", tiny_model_folder, weights, lora=2))]) == 0
    exported = load_file(tmp_path / "run" / "policy_step_4" / "model.safetensors")
    name = "model.transformer.blocks.1.q_proj"
    up, down = weights[f"{name}.lora_B.default.weight"], weights[f"{name}.lora_A.default.weight"]
    torch.testing.assert_close(exported[f"{name}.weight"], base[f"{name}.weight"] + 6 / 2 * up @ down)
    assert exported.keys() == base.keys()


def test_generation_uses_the_settings_of_the_run_unless_flags_override_them(saved, tmp_path):
    run, _ = saved
    assert main(["export", str(run)]) == 0
    flags = ["--model", str(run / "policy_step_4"), "--prompts", "1", "--output", str(tmp_path / "out")]
    config = generate.parse_config([*flags, "--task", "text"])
    assert config.text == SAMPLING
    assert (config.prompt_template, config.instruction, config.resolution) == ("chat_one_newline", "Think. ", 256)
    other = generate.parse_config([*flags, "--task=r2i", "--text.max_new_tokens", "24", "--resolution", "64"])
    assert (other.text.max_new_tokens, other.text.block_length, other.resolution) == (24, 6, 64)
    assert other.instruction == "Describe. "
    assert generate.parse_config([*flags, "--task", "t2i"]).instruction == ""


def test_the_model_card_names_base_data_rewards_metrics_and_settings(saved, tiny_model_folder):
    run, _ = saved
    assert main(["export", str(run)]) == 0
    card = (run / "policy_step_4" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head == {"library_name": "unigrpo", "license": "other", "tags": ["masked-diffusion", "unigrpo"]}
    assert "| `run/train.jsonl` | 1 | MIT | openai/gsm8k:main |" in card
    assert "| `held_out.jsonl` (held out) | not known | not known | not known |" in card
    assert "| `math_answer` | 2 | all | all |" in card
    assert "| eval/reward_total | 0.250 | 0.500 |" in card
    assert "max_new_tokens: 12" in card and str(run.parent) not in card and str(tiny_model_folder) not in card


def test_what_cannot_be_exported_is_named(saved, tmp_path, capsys):
    run, _ = saved

    def refused(*flags):
        assert main(["export", *flags]) == 2
        return capsys.readouterr().err

    assert "no checkpoint of step '3'; found [2, 4]" in refused(str(run), "--step", "3")
    assert "holds no config.yaml; name the directory of a run" in refused(str(tmp_path))
    assert "exists already" in refused(str(run), "--output", str(tmp_path))
    file = run / "checkpoints" / "step_00000004" / "policy" / "engine" / "mp_rank_00_model_states.pt"
    torch.save({"module": {"other": torch.zeros(1)}}, file)
    assert "skipping" not in refused(str(run), "--step", "4")
    assert not (run / "policy_step_4").exists() and not list(run.glob(".policy*"))
