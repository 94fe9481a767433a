"""Placeholders stand in for packages that OpenRLHF imports and UniGRPO does not need, and say why they do."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from unigrpo.distributed import compat


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """In a run, the import of DeepSpeed or OpenRLHF does it."""
    compat.install()


def test_using_a_placeholder_says_why_it_is_one() -> None:
    placeholder = importlib.import_module("vllm").SamplingParams

    with pytest.raises(ImportError, match=r"vllm\.SamplingParams was used, .*: UniGRPO does not use it"):
        placeholder(temperature=1.0)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn_2_cuda") is not None, reason="flash-attn is installed")
def test_transformers_is_not_fooled() -> None:
    assert importlib.util.find_spec("flash_attn") is not None
    assert not is_flash_attn_2_available()


def test_installing_twice_changes_nothing() -> None:
    before = {name: sys.modules.get(name) for name in compat.PLACEHOLDERS}
    compat.install()
    assert {name: sys.modules.get(name) for name in compat.PLACEHOLDERS} == before


def test_warnings_that_only_deepspeed_can_act_on_are_ignored_and_no_others() -> None:
    tensor = torch.zeros(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compat.install()
        for call in (torch.distributed.all_gather_into_tensor, torch.distributed.reduce_scatter_tensor):
            with pytest.raises(ValueError, match="process group"):
                call(tensor, tensor)
        warnings.warn("`torch.distributed.all_gather_into_tensor` is deprecated", FutureWarning, stacklevel=1)
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def in_a_new_process(code: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{folder}:."}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_vllm_is_not_imported_where_it_is_installed(tmp_path: Path) -> None:
    (tmp_path / "vllm.py").write_text("raise SystemExit('vllm was imported')")
    in_a_new_process("import unigrpo.distributed, openrlhf.trainer.ray, vllm; vllm.SamplingParams", tmp_path)


@pytest.mark.parametrize(
    ("content", "check"),
    [
        ("flash_attn_func = 'real'", "assert flash_attn.flash_attn_func == 'real'"),
        (
            "raise ImportError('undefined symbol: _ZN3c10')",
            """
try:
    flash_attn.flash_attn_func(1)
except ImportError as error:
    assert "a placeholder here: its import failed: undefined symbol: _ZN3c10" in str(error), error
else:
    raise AssertionError
""",
        ),
        ("import absent_package", "assert \"import failed: No module named 'absent_package'\" in flash_attn.__doc__"),
    ],
)
def test_flash_attention_is_taken_where_it_works(tmp_path: Path, content: str, check: str) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text(content)
    code = f"from unigrpo.distributed import compat\ncompat.install()\nimport flash_attn\n{check}"
    in_a_new_process(code, tmp_path)


@pytest.mark.parametrize("module", ["openrlhf.trainer.ray.launcher", "openrlhf.utils.deepspeed", "openrlhf.models"])
def test_openrlhf_imports_with_placeholders(module: str) -> None:
    importlib.import_module(module)
