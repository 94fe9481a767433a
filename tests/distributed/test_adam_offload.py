"""Tests that optimizer states in CPU memory (``ds.adam_offload``) need no compiler and give the same updates."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# One rank in a separate process trains two steps without and with offloading under each ZeRO stage.
RUN = """
import json, sys
from dataclasses import replace

import torch
import unigrpo.distributed
from unigrpo.config import DeepSpeedConfig, RunConfig
from unigrpo.distributed.actors import load_model
from unigrpo.distributed.engine import StrategyEngine
from unigrpo.distributed.strategy import CPUDeepspeedStrategy, UniGRPOStrategy, make_strategy

torch.set_num_threads(1)
CPUDeepspeedStrategy.adam_options = UniGRPOStrategy.adam_options  # as on a GPU

def train(stage, offload):
    config = RunConfig()
    actor = replace(config.actor, model_name_or_path=sys.argv[1], num_gpus_per_node=1)
    config = replace(config, actor=actor, ds=DeepSpeedConfig(zero_stage=stage, param_dtype="fp32"))
    strategy = make_strategy(config)
    strategy.adam_offload = offload
    strategy.setup_distributed()
    engine = StrategyEngine(load_model(config), config, strategy)
    start = torch.cat([weight.flatten() for weight in engine.trained_weights()])
    for step in range(2):
        ids = torch.randint(5, 20, (2, 24), generator=torch.Generator().manual_seed(step))
        scored = torch.arange(24).expand(2, 24) >= 8
        engine.backward(-engine.forward(ids, positions=scored, targets=ids[scored]).log_probs.mean())
        engine.step()
    weights = torch.cat([weight.flatten() for weight in engine.trained_weights()])
    optimizer = engine._engine.basic_optimizer
    assert engine._engine.zero_use_cpu_optimizer() == offload
    return weights, not torch.equal(weights, start), type(optimizer).__name__, optimizer.defaults["fused"]

for stage in (2, 3):
    plain, offloaded = (train(stage, offload) for offload in (False, True))
    print("RESULT", json.dumps([stage, torch.equal(plain[0], offloaded[0]), *offloaded[1:]]))
"""


@pytest.mark.slow
def test_offloading_needs_no_compiler_and_changes_no_update(tiny_model_folder):
    """PATH is empty and the folder CUDA_HOME does not exist, as on a node without gcc and nvcc."""
    environment = {
        **os.environ, "PATH": "", "CUDA_HOME": "/nowhere", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    command = [sys.executable, "-c", RUN, str(tiny_model_folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    equal = trained = fused = True
    assert results == [[stage, equal, trained, "AdamW", fused] for stage in (2, 3)]
