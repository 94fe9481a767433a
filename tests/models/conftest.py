"""Makes models with the weights of the golden cases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from unigrpo.models.mmada import MMadaConfig, MMadaModelLM


@pytest.fixture
def golden_model(golden: Callable[..., Any], golden_folder: Path) -> Callable[..., MMadaModelLM]:
    """Returns a function that returns the model of a case in evaluation mode; its attention is `eager` by default."""

    def load(name: str, weights: str = "model_tf", attention: str = "eager") -> MMadaModelLM:
        params, _ = golden(name)
        model = MMadaModelLM(MMadaConfig(**params["model_config"]))
        model.load_state_dict(load_file(golden_folder / f"{weights}.weights.safetensors"))
        model.config._attn_implementation = attention
        return model.eval()

    return load
