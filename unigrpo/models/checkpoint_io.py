"""Published MMaDA and LLaDA checkpoints from disk, refused where anything would be guessed or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PretrainedConfig

from unigrpo.models.mmada import MMadaConfig, MMadaModelLM

MODEL_TYPES = ("mmada", "llada")
ARCHITECTURE: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "rope": True,
    "scale_logits": False,
    "weight_tying": False,
}
"""Published config keys that choose another transformer than ours, with the one value that is ours."""
MAX_SHOWN = 3


def load_policy(folder: str | Path, dtype: torch.dtype, attn_implementation: str) -> MMadaModelLM:
    """The model of a checkpoint, in evaluation mode. No code that comes with it is run.

    Args:
        folder: Folder or Hub name in the published layout.
        dtype: Type of the weights.
        attn_implementation: `eager`, `sdpa` or one of transformers' flash kernels.

    Raises:
        ValueError: There is no such checkpoint, it is of another architecture, tensors are missing or left over, or
            one holds NaN or infinity.
    """
    config = load_config(folder)
    try:
        loaded: Any = MMadaModelLM.from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(
            f"{folder}: the weights could not be loaded; copy or download the checkpoint again ({_first_line(error)})"
        ) from error
    model, report = loaded
    for problem, names in (("missing", report["missing_keys"]), ("unknown", report["unexpected_keys"])):
        if names:
            raise ValueError(
                f"{folder}: {len(names)} tensors are {problem}: {_some(names)}; download the checkpoint again, or use "
                "one of the published architecture"
            )
    broken = [name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(
            f"{folder}: {len(broken)} tensors hold NaN or infinity: {_some(broken)}; use an earlier checkpoint"
        )
    return model


def load_config(folder: str | Path) -> MMadaConfig:
    """The config of a checkpoint.

    Raises:
        ValueError: There is none, or it describes another architecture.
    """
    try:
        values, _ = PretrainedConfig.get_config_dict(folder)
        if not values:
            raise FileNotFoundError("config.json is not there")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder}: no config.json could be read; give a folder or Hub name in the published MMaDA or LLaDA "
            f"layout ({_first_line(error)})"
        ) from error
    found = values.pop("model_type", None)
    if found not in MODEL_TYPES:
        raise ValueError(f"{folder}: model_type is {found!r}, expected one of {', '.join(MODEL_TYPES)}")
    for name, expected in ARCHITECTURE.items():
        if values.get(name, expected) != expected:
            raise ValueError(f"{folder}: {name} is {values[name]!r} in config.json, only {expected!r} is supported")
    values.pop("auto_map", None)  # names code that we neither run nor export
    return MMadaConfig.from_dict(values)


def _some(names: list[str] | set[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(sorted(names)[:MAX_SHOWN]) + more


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
