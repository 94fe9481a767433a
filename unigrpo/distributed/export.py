"""A checkpoint of a run as a Hugging Face folder, without starting the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from unigrpo import CheckpointError
from unigrpo.config import BaseRunConfig
from unigrpo.distributed.deepspeed_files import CHECKPOINT_TAG, load_mapped, without_code
from unigrpo.models.checkpoint_io import load_config, save_tokenizer_and_config, save_weights
from unigrpo.models.loading import find_image_tokenizer, load_tokenizer
from unigrpo.models.lora import add_lora
from unigrpo.models.mmada import MMadaModelLM
from unigrpo.models.weight_files import check_names

WHOLE = "mp_rank_00_model_states.pt"
"""File of DeepSpeed's checkpoints that holds all weights, up to ZeRO-2."""


def export_checkpoint(config: BaseRunConfig, checkpoint: Path, folder: Path) -> None:
    """Writes weights, config, tokenizer and image tokenizer of a checkpoint, as a finished run writes ``policy/``.

    The whole model is held in CPU memory; no GPU is used.

    Args:
        config: The run that wrote the checkpoint.
        checkpoint: Folder of one checkpoint.
        folder: Where to write.

    Raises:
        CheckpointError: The checkpoint has no weights, or those of another model.
    """
    base = config.actor.model_name_or_path
    dtype = torch.bfloat16 if config.ds.param_dtype == "bf16" else torch.float32
    model_config = load_config(base)
    if config.max_text_tokens is not None:
        model_config.max_text_tokens = config.max_text_tokens
    with torch.device("meta"):
        model: Any = MMadaModelLM(model_config).to(dtype)  # type: ignore[arg-type]
        if config.ds.lora.rank:
            add_lora(model, config.ds.lora)
    weights = checkpoint_weights(checkpoint / "policy", dtype)
    expected = set(model.state_dict())
    check_names(checkpoint, expected - weights.keys(), weights.keys() - expected)
    save_weights(model, weights, folder)
    save_tokenizer_and_config(model.config, load_tokenizer(base), folder)
    image_tokenizer = find_image_tokenizer(config.image.tokenizer, base)
    if image_tokenizer is not None:
        image_tokenizer.save_pretrained(folder / "image_tokenizer")


def checkpoint_weights(folder: Path, dtype: torch.dtype) -> dict[str, Shaped[Tensor, "*_"]]:
    """Returns the weights that DeepSpeed saved, whole, on the CPU; with LoRA those of the base and of the adapters.

    Args:
        folder: Folder that the engine wrote.
        dtype: Type in which the run computes with them. Under ZeRO-3 the files hold float32 copies.

    Raises:
        CheckpointError: There is no checkpoint in the folder, or its files cannot be read.
    """
    engine = folder / CHECKPOINT_TAG
    if not engine.is_dir():
        raise CheckpointError(f"{folder}: no DeepSpeed checkpoint; name a run with complete checkpoints")
    try:
        if (engine / WHOLE).is_file():
            return load_mapped(engine / WHOLE)["module"]
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint  # noqa: PLC0415  # slow import

        with without_code(engine):
            whole: Any = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=CHECKPOINT_TAG)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{engine}: the weights could not be read ({type(error).__name__}: {error}); name another --step"
        ) from error
    return {name: weight.to(dtype) for name, weight in whole.items()}
