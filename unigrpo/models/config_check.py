"""Checks of every field of a checkpoint's config.json that the model or the vocabulary reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unigrpo import CheckpointError

SIZES: dict[str, tuple[int, int]] = {
    "d_model": (1, 1 << 17),
    "n_layers": (1, 1 << 12),
    "n_heads": (1, 1 << 12),
    "n_kv_heads": (1, 1 << 12),
    "mlp_hidden_size": (1, 1 << 20),
    "vocab_size": (1, 1 << 24),
    "embedding_size": (1, 1 << 24),
    "codebook_size": (0, 1 << 24),
    "max_sequence_length": (1, 1 << 24),
    "max_text_tokens": (1, 1 << 24),
    "mask_token_id": (0, 1 << 24),
}
"""Smallest and largest value of each integer. The largest values are far above those of any model."""
OPTIONAL = ("n_kv_heads", "embedding_size", "codebook_size", "max_text_tokens", "mask_token_id")
"""Numbers that may be null."""
POSITIVE = ("rope_theta", "rms_norm_eps", "init_std")
TYPES = ("float32", "float16", "bfloat16")
UNSUPPORTED = ("quantization_config", "rope_scaling", "sliding_window")
"""Keys that change the computation in a way that we do not support."""
IGNORED = ("auto_map", "tp_plan", "base_model_tp_plan", "pp_plan")
"""Keys about code or the layout of other programs, which we neither use nor export."""


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the checked values of a folder's config.json. Ignored keys are left out.

    Raises:
        ValueError: The file is missing or is not a JSON object, or a value is invalid.
    """
    file = folder / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{type(error).__name__}: {(str(error) or 'nested too deep').splitlines()[0]}"
        ) from error
    if not isinstance(values, dict) or not values:
        raise CheckpointError(f"expected a JSON object with the sizes of the model, found {type(values).__name__}")
    return {key: value for key, value in values.items() if key not in IGNORED}


def check_config(name: str | Path, values: Mapping[str, Any]) -> None:
    """Checks types and ranges.

    Args:
        name: Name of the checkpoint for error messages.
        values: Content of config.json. Missing keys have the model's defaults.

    Raises:
        ValueError: A value is invalid; the message names the key.
    """
    for key, (low, high) in SIZES.items():
        value = values.get(key)
        is_unset = key in OPTIONAL and value is None
        if key in values and not is_unset and not is_integer(value, low, high):
            raise CheckpointError(_message(name, key, value, f"a whole number from {low} to {high}"))
    for key in POSITIVE:
        value = values.get(key, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise CheckpointError(_message(name, key, value, "a number above 0"))
    for key in ("dtype", "torch_dtype"):
        if values.get(key) not in (None, *TYPES):
            raise CheckpointError(_message(name, key, values[key], f"one of {', '.join(TYPES)}"))
    for key in UNSUPPORTED:
        if values.get(key):
            raise CheckpointError(
                _message(name, key, values[key], "no such key; the model would compute something else")
            )
    _check_positions(name, values)
    _check_heads(name, values)
    _check_special_ids(name, values.get("special_token_ids"))


def _check_positions(name: str | Path, values: Mapping[str, Any]) -> None:
    """Rejects scaled rotary positions in the format of transformers 5. Parameters that equal ours are accepted."""
    asked = values.get("rope_parameters") or {}
    known = {"rope_type": "default", "rope_theta": values.get("rope_theta")}
    if not isinstance(asked, Mapping) or any(value != known.get(key) for key, value in asked.items()):
        expected = f"none but rope_type 'default' and the rope_theta {known['rope_theta']} beside it"
        raise CheckpointError(_message(name, "rope_parameters", asked, expected))


def _check_heads(name: str | Path, values: Mapping[str, Any]) -> None:
    width, heads = values.get("d_model", 4096), values.get("n_heads", 32)
    groups = values.get("n_kv_heads") or heads
    if width % heads or (width // heads) % 2:
        raise CheckpointError(
            _message(name, "n_heads", heads, f"a divisor of d_model {width} into heads of an even width")
        )
    if heads % groups:
        raise CheckpointError(_message(name, "n_kv_heads", groups, f"a divisor of n_heads {heads}"))


def _check_special_ids(name: str | Path, ids: object) -> None:
    if ids is None:
        return
    if not isinstance(ids, Mapping) or not all(is_integer(value, 0, 1 << 24) for value in ids.values()):
        raise CheckpointError(_message(name, "special_token_ids", ids, "an object of token names and ids"))


def is_integer(value: object, low: int, high: int) -> bool:
    """Returns whether a value is an integer, and not a boolean, between two bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _message(name: str | Path, key: str, value: object, expected: str) -> str:
    return f"{name}: {key} is {value!r:.60} in config.json, expected {expected}"
