"""Tests that a policy exports a checkpoint in the format of its initial checkpoint."""

from __future__ import annotations

import json

import torch
from transformers import AutoTokenizer

from unigrpo.config import RunConfig
from unigrpo.models.checkpoint_io import load_policy
from unigrpo.training.optimizer_step import LocalEngine
from unigrpo.workers.policy import PolicyWorker


def test_an_exported_policy_loads_with_its_tokenizer_and_image_tokenizer(tiny_model_folder, tmp_path):
    model = load_policy(tiny_model_folder, torch.float32, "sdpa")
    config, tokenizer = RunConfig(), AutoTokenizer.from_pretrained(tiny_model_folder)
    PolicyWorker(config, LocalEngine(model, config.actor, 1), tokenizer).export(tmp_path)
    again = load_policy(tmp_path, torch.float32, "sdpa").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()
    assert "eos_token_id" in json.loads((tmp_path / "generation_config.json").read_text())
