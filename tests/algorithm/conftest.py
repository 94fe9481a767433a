"""The golden cases: numbers of the original implementations, see tests/fixtures/golden/cases.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "fixtures" / "golden"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[dict[str, Any], dict[str, Tensor]]]:
    """Name of a case -> its parameters and its arrays."""
    cases = {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())["cases"]}

    def load(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return cases[name]["params"], load_file(FOLDER / cases[name]["file"])

    return load
