"""Makes a run directory with two checkpoints like those of a run with DeepSpeed."""

from __future__ import annotations

import json

import torch

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
from unigrpo.runs.checkpoints import CheckpointStore
from unigrpo.runs.config_file import config_text

SAMPLING = TextSamplingConfig(max_new_tokens=12, num_denoising_steps=4, block_length=6, temperature=0.7)


def save_run(folder, model_folder, weights, *, lora=0):
    """Writes the files that a run with DeepSpeed has after steps 2 and 4. The weights of step 2 are 0."""
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
