"""Reading and writing of published MMaDA and LLaDA checkpoints. Nothing is guessed: whatever is missing, left over or
of another architecture is an error."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from unigrpo import CheckpointError
from unigrpo.models.config_check import check_config, read_config
from unigrpo.models.fused_ops import FusedOps, compiled
from unigrpo.models.lora import merge_lora
from unigrpo.models.mmada import MMadaConfig, MMadaModelLM
from unigrpo.models.transformers_output import no_bar_in_files
from unigrpo.models.vocabulary import Vocabulary
from unigrpo.models.weight_files import (
    INDEX,
    SINGLE_FILE,
    check_finite,
    check_names,
    check_shapes,
    first_line,
    local_folder,
    weight_files,
)

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
    "tie_word_embeddings": False,
    "weight_tying": False,
}
"""Published config keys that select the architecture, each with the only value that we support."""
MAX_SHARD_SIZE = "5GB"
"""Largest size of a weight file."""


def load_policy(
    name: str | Path,
    dtype: torch.dtype,
    attn_implementation: str,
    *,
    compile: bool = False,
    max_text_tokens: int | None = None,
    check_values: bool = True,
) -> MMadaModelLM:
    """Returns the model of a checkpoint in evaluation mode. Code in the checkpoint is never run.

    Args:
        name: Folder or Hub name in the published format.
        dtype: Type of the weights.
        attn_implementation: `eager`, `sdpa` or one of transformers' flash kernels.
        compile: Fuse the functions between the model's matrix products.
        max_text_tokens: Value for the model's config; None keeps the checkpoint's.
        check_values: Look for NaN and infinity, which takes 45 s for the 8B model. One process of a node is enough.

    Raises:
        ValueError: There is no such checkpoint, it is of another architecture, files or tensors are missing or left
            over, a tensor holds NaN or infinity, or nothing can be compiled here.
    """
    functions = compiled() if compile else FusedOps()
    config = load_config(name)
    if max_text_tokens is not None:
        config.max_text_tokens = max_text_tokens
    folder = local_folder(name)
    files = weight_files(folder, (SINGLE_FILE,))
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in MMadaModelLM(config).state_dict().items()}
    check_shapes(name, files, shapes)
    try:
        with no_bar_in_files():
            loaded: Any = MMadaModelLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attn_implementation,
                output_loading_info=True,
                use_safetensors=True,  # pickled weights beside them would win otherwise
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
        raise CheckpointError(
            f"{name}: the weights could not be loaded; copy or download the checkpoint again ({first_line(error)})"
        ) from error
    model, report = loaded
    check_names(name, report["missing_keys"], report["unexpected_keys"])
    if check_values:
        check_finite(name, model.state_dict())
    model.set_fused_ops(functions)
    return model


def load_config(name: str | Path) -> MMadaConfig:
    """Returns the config of a checkpoint. For a Hub name, nothing else is downloaded.

    Raises:
        ValueError: There is no config, or it describes another architecture.
    """
    folder = local_folder(name, ["*.json"])
    try:
        values = read_config(folder)
    except ValueError as error:
        raise CheckpointError(
            f"{name}: no config.json could be read; give a folder or Hub name in the published MMaDA or LLaDA "
            f"layout ({error})"
        ) from error
    found = values.pop("model_type", None)
    if found not in MODEL_TYPES:
        raise CheckpointError(f"{name}: model_type is {reprlib.repr(found)}, expected one of {', '.join(MODEL_TYPES)}")
    differences = [
        f"{key} is {reprlib.repr(values[key])} in place of {expected!r}"
        for key, expected in ARCHITECTURE.items()
        if values.get(key, expected) != expected
    ]
    if differences:
        raise CheckpointError(
            f"{name}: the architecture is not LLaDA's, which is the only supported one; in config.json "
            f"{', '.join(differences)}"
        )
    check_config(name, values)
    try:
        return MMadaConfig.from_dict(values)
    except Exception as error:  # transformers checks the fields that it knows in many ways
        raise CheckpointError(f"{name}: config.json has an invalid value ({first_line(error)})") from error


def save_policy(model: MMadaModelLM, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes a checkpoint in the published format: safetensors (large models in shards with an index), config and
    tokenizer.

    Args:
        model: The model. Its weights keep their type.
        tokenizer: The tokenizer of the checkpoint.
        folder: Folder to write to. It may exist; weights in it are replaced.
    """
    (Path(folder) / INDEX).unlink(missing_ok=True)  # transformers leaves it behind when one file is enough
    model.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
    save_tokenizer_and_config(model.config, tokenizer, folder)


def meta_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Returns the same model without weights and without adapters."""
    with torch.device("meta"):
        copy: Any = type(model)(model.config).to(model.dtype)  # type: ignore[arg-type]
    if isinstance(model, MMadaModelLM):
        copy.set_fused_ops(model.fused_ops)
    return copy


def save_weights(model: PreTrainedModel, weights: Mapping[str, Shaped[Tensor, "*_"]], folder: str | Path) -> None:
    """Writes only the weights, with LoRA adapters merged, and the config.

    The layers with adapters are written in float32, and the config says so: see
    :func:`~unigrpo.models.lora.merge_lora`.

    Args:
        model: The model.
        weights: All its weights, by name.
        folder: Folder to write to.
    """
    merged, copy = merge_lora(model, weights), meta_copy(model)
    if any(weight.dtype == torch.float32 for weight in merged.values()):
        copy = copy.float()
    copy.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE, state_dict=merged)


def save_tokenizer_and_config(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Writes the tokenizer and the generation config next to the weights and config that transformers has saved.

    Transformers writes a generation config only for models that it can sample from. It writes the type of the weights
    under a key that the releases for which the checkpoints were published do not read.
    """
    tokenizer.save_pretrained(folder)
    vocabulary = Vocabulary.from_pretrained_parts(config, tokenizer)
    GenerationConfig(bos_token_id=vocabulary.begin_of_text_id, eos_token_id=vocabulary.end_of_text_id).save_pretrained(
        folder
    )
    file = Path(folder) / "config.json"
    values = json.loads(file.read_text())
    values["torch_dtype"] = values["dtype"]
    file.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
