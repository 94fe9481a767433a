"""Other implementations to compare with: the golden cases of tests/fixtures/golden, and OpenRLHF's losses."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from unigrpo.distributed import compat

FOLDER = Path(__file__).parents[1] / "fixtures" / "golden"


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Where the golden cases lie."""
    return FOLDER


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]]:
    """Name of a case -> its parameters and its arrays."""
    cases = {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())["cases"]}

    def load(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return cases[name]["params"], load_file(FOLDER / cases[name]["file"])

    return load


@pytest.fixture(scope="session")
def openrlhf() -> SimpleNamespace:
    """OpenRLHF's own losses: the second implementation. Its modules load only once placeholders are in place."""
    compat.install()
    loss = importlib.import_module("openrlhf.models.loss")
    utils = importlib.import_module("openrlhf.models.utils")
    return SimpleNamespace(
        PolicyLoss=loss.PolicyLoss, aggregate_loss=loss.aggregate_loss, compute_approx_kl=utils.compute_approx_kl
    )
