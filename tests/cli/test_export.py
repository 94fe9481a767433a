"""A model folder from a checkpoint: its weights, sampling settings and model card, and the upload to the Hub."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from unigrpo.cli import generate
from unigrpo.cli.main import main
from unigrpo.config import (
    ActorConfig,
    DataConfig,
    DeepSpeedConfig,
    EvalConfig,
    LoRAConfig,
    PromptFileConfig,
    RolloutConfig,
    RunConfig,
    TextSamplingConfig,
)
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.models.lora import add_lora
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.config_file import config_text

SAMPLING = TextSamplingConfig(max_new_tokens=12, num_denoising_steps=4, block_length=6, temperature=0.7)


def save_run(folder, model_folder, weights, *, lora=0):
    """Writes what a run of DeepSpeed leaves behind after steps 2 and 4; the weights of step 2 are 0."""
    prompts = folder / "train.jsonl"
    folder.mkdir()
    prompts.write_text('{"prompt": "1+1=", "label": "2"}\n')
    (folder / "train.jsonl.source.json").write_text(
        json.dumps({"source": "openai/gsm8k:main", "licence": "MIT", "rows": {"kept": 1}})
    )
    config = RunConfig(
        run_dir=str(folder),
        data=DataConfig(
            prompt_dataset=(PromptFileConfig(path=str(prompts)),),
            prompt_template="chat_one_newline",
            instruction="Think. ",
            instructions={"r2i": "Describe. "},
        ),
        rollout=RolloutConfig(text=SAMPLING),
        actor=ActorConfig(model_name_or_path=str(model_folder)),
        ds=DeepSpeedConfig(param_dtype="fp32", lora=LoRAConfig(rank=lora, alpha=6)),
        eval=EvalConfig(dataset="held_out.jsonl"),
    )
    (folder / "config.yaml").write_text(config_text(config))
    rows = [{"step": 0, "eval/reward_total": 0.25}, {"step": 2, "eval/reward_total": 0.5}, {"step": 3, "loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = CheckpointStore(folder / "checkpoints", 2)
    for step, factor, metric in ((2, 0.0, 2.0), (4, 1.0, 1.0)):

        def write(path, factor=factor):
            (path / "policy" / "engine").mkdir(parents=True)
            module = {name: factor * tensor for name, tensor in weights.items()}
            torch.save({"module": module}, path / "policy" / "engine" / "mp_rank_00_model_states.pt")

        store.save(step, {"step": step}, write, metric)
    return folder


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


def test_generation_takes_the_settings_of_the_run_unless_flags_say_otherwise(saved, tmp_path):
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


class Hub:
    """Stands in for the Hub."""

    calls: list[tuple]

    def create_repo(self, name, **options):
        Hub.calls = [(name, options)]
        return f"https://example.org/{name}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        Hub.calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))


def test_a_policy_is_pushed_with_its_card(saved, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert main(["export", str(saved[0]), "--push_to_hub", "me/sums", "--private"]) == 0
    assert "pushed to https://example.org/me/sums" in capsys.readouterr().out
    created, (name, files) = Hub.calls
    assert created == ("me/sums", {"private": True, "exist_ok": True})
    assert name == "me/sums" and {"README.md", "sampling.json", "model.safetensors"} <= set(files)


def test_a_hub_that_refuses_is_one_line_and_the_folder_stays(saved, monkeypatch, capsys):
    class Refusing(Hub):
        def create_repo(self, name, **options):
            raise OSError("401 Unauthorized\nsee docs")

    monkeypatch.setattr("huggingface_hub.HfApi", Refusing)
    assert main(["export", str(saved[0]), "--push_to_hub", "me/sums"]) == 2
    error = capsys.readouterr().err
    assert "--push_to_hub me/sums: the Hub did not take it (OSError: 401 Unauthorized); log in" in error
    assert (saved[0] / "policy_step_4" / "README.md").is_file()


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
