"""Tests the placeholders of packages that OpenRLHF imports and UniGRPO does not need."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from unigrpo.distributed import compat


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Installs the placeholders, as the import of DeepSpeed or OpenRLHF does in a run."""
    compat.install()


def test_the_use_of_a_placeholder_is_an_error_that_says_why() -> None:
    placeholder = importlib.import_module("vllm").SamplingParams

    with pytest.raises(ImportError, match=r"vllm\.SamplingParams was used, .*: UniGRPO does not use it"):
        placeholder(temperature=1.0)


@pytest.mark.skipif(importlib.util.find_spec("flash_attn_2_cuda") is not None, reason="flash-attn is installed")
def test_transformers_does_not_detect_the_placeholders() -> None:
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


@pytest.fixture
def installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], ModuleType]:
    """Name and content of a package -> the module that is imported where it is installed."""

    def import_it(name: str, content: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(content)
        monkeypatch.syspath_prepend(tmp_path)
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        compat.install()
        return importlib.import_module(name)

    return import_it


def test_vllm_is_not_imported_even_if_it_is_installed(installed_package: Callable[[str, str], ModuleType]) -> None:
    vllm = installed_package("vllm", "raise SystemExit('vllm was imported')")
    assert "UniGRPO does not use it" in str(vllm.__doc__)
    assert vllm.SamplingParams


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("flash_attn_func = 'real'", ""),
        ("raise ImportError('undefined symbol: _ZN3c10')", "its import failed: undefined symbol: _ZN3c10"),
        ("import absent_package", "its import failed: No module named 'absent_package'"),
    ],
)
def test_flash_attention_is_used_if_it_works(
    installed_package: Callable[[str, str], ModuleType], content: str, reason: str
) -> None:
    flash_attn = installed_package("flash_attn", content)
    if not reason:
        assert flash_attn.flash_attn_func == "real"
        return
    with pytest.raises(ImportError, match=rf"flash_attn_func was used, .* placeholder here: {reason}"):
        flash_attn.flash_attn_func(1)


@pytest.mark.parametrize("module", ["openrlhf.trainer.ray.launcher", "openrlhf.utils.deepspeed", "openrlhf.models"])
def test_openrlhf_imports_with_placeholders(module: str) -> None:
    importlib.import_module(module)
