"""Tests the behaviour of OpenRLHF, DeepSpeed and Ray on which UniGRPO relies. Check the uses before you raise a
pin."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import deepspeed
import pytest
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from openrlhf.trainer.ray.launcher import BaseModelActor
from openrlhf.utils.deepspeed import DeepspeedStrategy
from openrlhf.utils.deepspeed import deepspeed as strategy_module

from unigrpo.config import RunConfig
from unigrpo.distributed.strategy import strategy_arguments, training_settings

PINS = {"openrlhf": "0.11.2", "deepspeed": "0.19.6", "ray": "2.55.0", "transformers": "5.15.0"}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if not name.startswith("_ray_")]


@pytest.mark.parametrize("package", PINS)
def test_the_installed_versions_are_the_pinned_ones(package: str) -> None:
    assert version(package) == PINS[package]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (BaseModelActor.__init__, "self world_size rank master_addr master_port"),
        (BaseModelActor._setup_distributed, "self strategy"),
        (BaseModelActor.get_master_addr_port, "self"),
        (
            DeepspeedStrategy.__init__,
            "self seed full_determinism max_norm micro_train_batch_size train_batch_size zero_stage args",
        ),
        (DeepspeedStrategy.setup_distributed, "self timeout"),
        (DeepspeedStrategy.get_ds_train_config, "self optim_dict max_norm"),
        (DeepspeedStrategy.prepare, "self args"),
        (DeepspeedStrategy.get_grad_norm, "self model"),
        (
            DeepspeedStrategy.save_ckpt,
            "self model save_dir tag max_num max_mem client_state save_latest metric_value metric_key",
        ),
        (
            DeepspeedStrategy.load_ckpt,
            "self model load_dir tag load_module_strict load_optimizer_states load_lr_scheduler_states "
            "load_module_only",
        ),
        (DeepSpeedEngine.step, "self lr_kwargs"),
        (DeepSpeedEngine.was_step_applied, "self"),
    ],
)
def test_a_used_signature_has_not_changed(function: Any, expected: str) -> None:
    assert parameters(function) == expected.split()


def test_names_that_are_patched_or_read_exist() -> None:
    assert callable(strategy_module.torch_dist_barrier_and_cuda_sync)
    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
    assert "self.check_grad_overflow" in inspect.getsource(DeepSpeedZeroOptimizer.step)
    assert "def backward(self, loss, retain_graph=False, scale_wrt_gas=True)" in inspect.getsource(DeepSpeedEngine)


def test_every_argument_that_the_strategy_reads_is_supplied() -> None:
    source = Path(inspect.getsourcefile(DeepspeedStrategy) or "").read_text()
    read = re.findall(r"args\.(ds|train)\.(\w+)", source)
    read += re.findall(r"getattr\((?:self\.)?args\.(ds|train), \"(\w+)\"", source)
    assert len(read) > 10
    arguments = strategy_arguments(RunConfig())
    missing = {f"{section}.{name}" for section, name in read if not hasattr(getattr(arguments, section), name)}
    assert not missing
    top = set(re.findall(r"args\.(\w+)", source)) | set(re.findall(r"getattr\(args, \"(\w+)\"", source))
    assert not {name for name in top if not hasattr(arguments, name)}


def test_every_setting_that_prepare_reads_is_supplied() -> None:
    source = inspect.getsource(DeepspeedStrategy._ds_init_train_model)
    settings = training_settings(RunConfig())
    read = set(re.findall(r"cfg(?:\.get\(|\[)\"(\w+)\"", source)) - {"muon"}
    assert read == set(settings)
    assert set(re.findall(r"adam\[\"(\w+)\"\]", source)) == set(settings["adam"])
