"""Reading of DeepSpeed's checkpoint files, which are pickles, without running code that a pickle may contain."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch.serialization import safe_globals

from unigrpo import CheckpointError

CHECKPOINT_TAG = "engine"
"""Name of DeepSpeed's folder inside a checkpoint."""
OVERRIDE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Environment variable of torch that overrides the argument ``weights_only`` of `torch.load`."""


@contextmanager
def without_code(folder: Path) -> Iterator[None]:
    """Restricts `torch.load` to tensors, plain values and three classes of DeepSpeed while the block runs.

    DeepSpeed itself reads its files with ``weights_only=False``, which calls whatever function a pickle names.

    Args:
        folder: Folder of the files, for the error.

    Raises:
        CheckpointError: A file names another class or function.
    """
    # Seconds to import, which an export of whole weights need not wait for.
    from deepspeed.runtime.fp16.loss_scaler import LossScaler  # noqa: PLC0415
    from deepspeed.runtime.zero.config import ZeroStageEnum  # noqa: PLC0415
    from deepspeed.utils.tensor_fragment import fragment_address  # noqa: PLC0415

    before = os.environ.get(OVERRIDE)
    os.environ[OVERRIDE] = "1"
    try:
        with safe_globals([LossScaler, ZeroStageEnum, fragment_address]), _refusal(folder):
            yield
    finally:
        if before is None:
            del os.environ[OVERRIDE]
        else:
            os.environ[OVERRIDE] = before


def load_mapped(file: Path) -> dict[str, Any]:
    """Returns the content of a file, whose tensors are read where they are used.

    Files of optimizer states hold classes of DeepSpeed, which only :func:`without_code` allows.

    Raises:
        CheckpointError: The file names a class or function that is not allowed.
    """
    with _refusal(file):
        return torch.load(file, map_location="cpu", mmap=True, weights_only=True)


@contextmanager
def _refusal(path: Path) -> Iterator[None]:
    """Explains torch's refusal of a pickle."""
    try:
        yield
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path}: not a checkpoint of DeepSpeed: it holds {named[1] if named else 'something'} where only tensors "
            "and plain values belong, and reading that could run code; use a checkpoint that a run has written"
        ) from error
