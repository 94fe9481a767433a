"""Placeholders stand in for what is not installed, are honest about it, and stay away from what is."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from transformers.utils.import_utils import is_flash_attn_2_available

from unigrpo.distributed import compat


def installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


needs_no_vllm = pytest.mark.skipif(installed("vllm"), reason="vllm is installed")
needs_no_flash_attention = pytest.mark.skipif(installed("flash-attn"), reason="flash-attn is installed")


@needs_no_vllm
def test_using_a_placeholder_says_what_is_missing() -> None:
    placeholder = importlib.import_module("vllm").SamplingParams

    with pytest.raises(ImportError, match=r"vllm.SamplingParams was used, but vllm is not installed"):
        placeholder(temperature=1.0)


@needs_no_flash_attention
def test_transformers_is_not_fooled() -> None:
    assert importlib.util.find_spec("flash_attn") is not None
    assert not is_flash_attn_2_available()


def test_installing_twice_changes_nothing() -> None:
    before = {name: sys.modules.get(name) for name in compat.PLACEHOLDERS}
    compat.install()
    assert {name: sys.modules.get(name) for name in compat.PLACEHOLDERS} == before


def test_an_installed_package_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm.py").write_text("real = True")
    code = "import unigrpo.distributed, vllm; assert vllm.real"
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:.")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["openrlhf.trainer.ray.launcher", "openrlhf.utils.deepspeed", "openrlhf.models"])
def test_openrlhf_imports_where_neither_is_installed(module: str) -> None:
    importlib.import_module(module)
