"""What transformers prints while it loads and saves models, without the lines that nobody can act on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled


@contextmanager
def no_bar_in_files() -> Iterator[None]:
    """Turns transformers' progress bar off while the context lives, unless standard error is a terminal."""
    was_enabled = is_progress_bar_enabled()
    if not sys.stderr.isatty():
        disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            enable_progress_bar()


@contextmanager
def quiet_saving() -> Iterator[None]:
    """Does the same while transformers saves a model, and tells DeepSpeed where there is no GPU.

    Transformers imports DeepSpeed to save a model, if it is installed, and DeepSpeed warns about a missing GPU.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with no_bar_in_files():
        yield
